"""Reads an engine's server-sent events as they pass: usage, errors, and nothing changed but what must be."""

from collections.abc import Iterator

import msgspec

_END_OF_EVENT = b"\n\n"
_DATA = b"data: "
_USAGE = b'"usage"'  # cannot occur inside a JSON string, where quotes are escaped
_ERROR = b'data: {"error"'
_TOOL_CALLS = b'"tool_calls":[{'  # likewise
DONE = b"data: [DONE]\n\n"
"""The event that ends a stream. The tap keeps it back: whoever relays the stream knows whether it ended well."""


class TokenDetails(msgspec.Struct, frozen=True):
    """Where prompt tokens came from."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """An engine's own count of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: TokenDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the KV cache."""
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class _Body(msgspec.Struct, frozen=True):
    usage: Usage | None = None
    choices: list[msgspec.Raw] = []


_decode = msgspec.json.Decoder(_Body).decode


def usage_of(body: bytes) -> Usage | None:
    """The usage in a response body that was not streamed; None if it has none."""
    try:
        return _decode(body).usage
    except msgspec.DecodeError:
        return None


def calls_tools(output: bytes) -> bool:
    """Whether a response body, or a part of a stream, calls a tool."""
    return _TOOL_CALLS in output


class SseTap:
    """Passes whole events on, remembers the last usage, and drops the usage event that only we asked for."""

    def __init__(self, *, hide_usage: bool) -> None:
        self.usage: Usage | None = None
        self.error: bytes | None = None
        """The JSON of an error event, which engines send in place of the rest of a stream."""
        self.done = False
        """The engine ended the stream itself."""
        self.calls_tools = False
        self.n_events = 0
        """Events passed on that carry output: a lower bound of output tokens where no usage came."""
        self._hide_usage = hide_usage
        self._partial = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take what arrived; return what the client gets now (events are never torn)."""
        data = self._partial + chunk
        end = data.rfind(_END_OF_EVENT)
        if end < 0:
            self._partial = data
            return b""
        whole, self._partial = data[: end + 2], data[end + 2 :]
        self.calls_tools = self.calls_tools or calls_tools(whole)
        if _USAGE not in whole and _ERROR not in whole and DONE not in whole:
            self.n_events += whole.count(_END_OF_EVENT)
            return whole
        return b"".join(event for event in _events(whole) if self._passes(event))

    def _passes(self, event: bytes) -> bool:
        if event == DONE:
            self.done = True
            return False
        if event.startswith(_ERROR):
            self.error = event[len(_DATA) :].strip()
            return False
        if _USAGE in event:
            body = _decode(event[len(_DATA) :])
            self.usage = body.usage or self.usage
            if body.usage is not None and not body.choices:
                return not self._hide_usage
        self.n_events += 1
        return True


def _events(data: bytes) -> Iterator[bytes]:
    start = 0
    while (end := data.find(_END_OF_EVENT, start)) >= 0:
        yield data[start : end + 2]
        start = end + 2

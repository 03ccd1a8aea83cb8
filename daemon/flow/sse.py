"""Reads an engine's server-sent events as they pass: usage, errors, and nothing changed but what must be."""

from collections.abc import Iterator
from typing import Any

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
_NO_USAGE = _Body()


def usage_of(body: bytes) -> Usage | None:
    """The usage in a response body that was not streamed; None if it has none."""
    try:
        return _decode(body).usage
    except msgspec.DecodeError:
        return None


def calls_tools(output: bytes) -> bool:
    """Whether a response body, or a part of a stream, calls a tool."""
    return _TOOL_CALLS in output


def without_cached_tokens(body: bytes) -> bytes:
    """The same JSON, but that its usage does not say where prompt tokens came from."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    usage = msgspec.json.decode(fields.get("usage", b"null"), type=dict[str, msgspec.Raw] | None)
    if usage is None:
        return body
    shown: dict[str, Any] = {**usage, "prompt_tokens_details": None}
    return msgspec.json.encode({**fields, "usage": shown})


class SseTap:
    """Passes whole events on, remembers the last usage, and drops the usage event that only we asked for."""

    def __init__(self, *, hide_usage: bool, hide_cached_tokens: bool = False) -> None:
        self.usage: Usage | None = None
        self.error: bytes | None = None
        """The JSON of an error event, which engines send in place of the rest of a stream."""
        self.done = False
        """The engine ended the stream itself."""
        self.calls_tools = False
        self.n_events = 0
        """Events passed on that carry output: a lower bound of output tokens where no usage came."""
        self._hide_usage = hide_usage
        self._hide_cached_tokens = hide_cached_tokens
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
        return b"".join(map(self._passed, _events(whole)))

    def _passed(self, event: bytes) -> bytes:
        """What the client gets of it."""
        if event == DONE:
            self.done = True
            return b""
        if event.startswith(_ERROR):
            self.error = event[len(_DATA) :].strip()
            return b""
        body = _decode(event[len(_DATA) :]) if _USAGE in event else _NO_USAGE
        self.usage = body.usage or self.usage
        only_usage = body.usage is not None and not body.choices
        if only_usage and self._hide_usage:
            return b""
        self.n_events += not only_usage
        if body.usage is not None and self._hide_cached_tokens:
            return _DATA + without_cached_tokens(event[len(_DATA) :]) + _END_OF_EVENT
        return event


def _events(data: bytes) -> Iterator[bytes]:
    start = 0
    while (end := data.find(_END_OF_EVENT, start)) >= 0:
        yield data[start : end + 2]
        start = end + 2

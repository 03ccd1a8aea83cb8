"""The feed of a running daemon: a snapshot and then ticks; it comes back by itself, however often the daemon goes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import httpx
import msgspec

from preble.daemon.wire.live import LiveEvent
from preble.tui.feed.source import Item, read_event
from preble.tui.feed.sse import EventReader, TooLong
from preble.tui.state import Link

CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 10.0
"""A feed ticks several times a second; one that says nothing for so long is dead."""
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0


class _Lost(Exception):
    """The connection has ended, or there was none."""


class LiveFeed:
    """Reads `GET /admin/v1/live`. `waits_s` are the first and the longest time between two tries."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        on_event: Callable[[LiveEvent], None] = lambda event: None,
        now: Callable[[], float] = time.monotonic,
        waits_s: tuple[float, float] = (FIRST_WAIT_S, LONGEST_WAIT_S),
        silence_s: float = SILENCE_S,
    ) -> None:
        self._url = f"{url.rstrip('/')}/admin/v1/live"
        self._headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._on_event = on_event
        self._now = now
        self._waits_s = waits_s
        self._timeout = httpx.Timeout(silence_s, connect=CONNECT_TIMEOUT_S)
        self._last_id: str | None = None

    async def items(self) -> AsyncIterator[Item]:
        """Events for ever, and a `Link` whenever the connection changes."""
        first_s, longest_s = self._waits_s
        wait_s = first_s
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False) as client:
            while True:
                try:
                    async for event in self._connection(client):
                        wait_s = first_s
                        self._on_event(event)
                        yield event
                except _Lost as lost:
                    yield Link("lost", str(lost), self._now() + wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, longest_s)

    async def _connection(self, client: httpx.AsyncClient) -> AsyncIterator[LiveEvent]:
        """The events of one connection. Always ends by raising `_Lost`."""
        headers = dict(self._headers)
        if self._last_id is not None:
            headers["last-event-id"] = self._last_id
        reader = EventReader()
        try:
            async with client.stream("GET", self._url, headers=headers) as response:
                if not response.is_success:
                    raise _Lost(_refusal(response.status_code, await response.aread()))
                async for piece in response.aiter_bytes():
                    for event in reader.feed(piece):
                        yield read_event(event.data)
                        self._last_id = event.id
        except (httpx.HTTPError, httpx.InvalidURL, TooLong) as error:
            raise _Lost(_reason(error)) from error
        except msgspec.MsgspecError as error:
            self._last_id = None  # a snapshot may be readable
            raise _Lost(f"the daemon speaks another version of the feed: {error}") from error
        raise _Lost("the daemon has ended the feed")


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return "the feed has fallen silent"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "no daemon answers; is `preble serve` running?"
    return str(error) or type(error).__name__


def _refusal(status: int, body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return f"the daemon answers {status}"

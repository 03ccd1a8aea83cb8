"""The operator's live feed, as server-sent events."""

from asyncio import FIRST_COMPLETED, create_task, wait
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

from litestar import Controller, Request, Response, get
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as AsgiScope

from preble.daemon.api.admin import Admin
from preble.daemon.api.schema import keyed
from preble.daemon.api.server import CUT_OFF
from preble.daemon.errors import InvalidRequest, Unavailable
from preble.daemon.tenancy.model import Scope

AnyRequest = Request[Any, Any, Any]
_LARGEST = 2**53
_FAREWELL_S = 1.0
After = Annotated[int | None, QueryParameter(ge=0, le=_LARGEST, description="The number of the last event it has.")]
LastEventId = Annotated[str | None, HeaderParameter(name="last-event-id", description="The same, as browsers say it.")]


class LiveController(Controller):
    """`/admin/v1/live`, for operators' keys."""

    path = "/admin/v1/live"
    tags = ("operators",)

    @get(operation_class=keyed(InvalidRequest, Unavailable, only_events=True))
    async def live(
        self, request: AnyRequest, admin: Admin, after: After = None, last_event_id: LastEventId = None
    ) -> Response[None]:
        """Tell what happens as it happens: a snapshot, then a tick every interval, each with its number as id.

        Whoever names the last event it has gets what followed, or a new snapshot if that is not known any more.
        """
        admin.authenticate(request, Scope.ADMIN_READ)
        events = admin.feed.attach(after if after is not None else _number(last_event_id))
        return _Events(events, admin.feed.ended)


def _number(text: str | None) -> int | None:
    """None for what cannot be one of our numbers: whoever comes with it gets a snapshot."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 17 else None


class _Events(Response[None]):
    """A stream that ends when its client leaves, or the feed does."""

    def __init__(self, events: AsyncGenerator[bytes], ended: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__(None)
        self._events = events
        self._ended = ended

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """Leave headers and events to `_relay`."""
        return self._relay

    async def _relay(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            sending, leaving = create_task(self._send(send)), create_task(_client_left(receive))
            ending = create_task(self._ended())
            try:
                await wait((sending, leaving, ending), return_when=FIRST_COMPLETED)
                if ending.done():  # one that does not read is not waited for, nor is what a socket holds for it
                    _cut_off(scope)
                    await wait((sending,), timeout=_FAREWELL_S)
            finally:
                for task in (sending, leaving, ending):
                    task.cancel()
                await wait((sending, leaving, ending))
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _cut_off(scope: AsgiScope) -> None:
    extensions: Any = scope.get("extensions") or {}
    if CUT_OFF in extensions:  # our own server offers it
        extensions[CUT_OFF](_FAREWELL_S)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

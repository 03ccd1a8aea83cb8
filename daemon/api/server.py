"""The HTTP server in front of the routes: uvicorn, with the limits on request heads that it lacks."""

from asyncio import TimerHandle
from asyncio import Transport as AsyncTransport
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from preble.daemon.config import ServerConfig
from preble.daemon.errors import ApiError


class _HeadTooLarge(Exception):
    """Raised inside the parser, which then stops and has the protocol answer."""


class LimitedProtocol(HttpToolsProtocol):
    """Cuts off a client whose request head is too large or does not end in time."""

    max_header_bytes: int
    header_timeout_s: float

    _in_head = True
    _head_bytes = 0
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: AsyncTransport) -> None:  # type: ignore[override]
        """Expect a head from the first moment on."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def on_message_begin(self) -> None:
        """Expect a head, again on a connection that is kept."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; many of them may come in one piece."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > self.max_header_bytes:
            raise _HeadTooLarge
        super().on_header(name, value)

    def data_received(self, data: bytes) -> None:
        """Count what comes of a head that is not complete: one header may come in many pieces."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.max_header_bytes:
                self.send_400_response("")

    def on_headers_complete(self) -> None:
        """The head is here: what follows is the body, which the routes limit."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or a head too large, in the shape of every other error; then hang up."""
        too_large = self._head_bytes > self.max_header_bytes
        status = "431 Request Header Fields Too Large" if too_large else "400 Bad Request"
        problem = ApiError(
            "The request head is too large." if too_large else "The request is not valid HTTP.",
            code="headers_too_large" if too_large else "bad_http",
        ).body()
        body = msgspec.json.encode({"error": {**problem, "type": "invalid_request_error"}})
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(Server):
    """Leaves signals to whoever runs it: the engines must end too, after the last request."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def make_server(app: Any, config: ServerConfig) -> Server:
    """A server for `app` that leaves signals and logging to its caller: await `serve()`, end it by `should_exit`."""
    limits = {"max_header_bytes": config.max_header_bytes, "header_timeout_s": config.header_timeout_s}
    return _Server(
        Config(
            app,
            host=config.host,
            port=config.port,
            http=type("ConfiguredProtocol", (LimitedProtocol,), limits),
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=round(config.keep_alive_s),
            timeout_graceful_shutdown=round(config.drain_timeout_s),
        )
    )

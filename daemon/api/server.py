"""The HTTP server in front of the routes: uvicorn, with the limits on what a client may take its time for."""

from asyncio import TimerHandle
from asyncio import Transport as AsyncTransport
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Any

import msgspec
from httptools import HttpParserUpgrade, HttpRequestParser
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from preble.daemon.api.request_ids import new_request_id, request_id
from preble.daemon.config import ServerConfig
from preble.daemon.errors import ApiError, InvalidRequest
from preble.daemon.ids import RequestId

CUT_OFF = "preble.cut_off_after"
"""The extension of ASGI's scope by which a route has its connection let go after so many seconds."""
_BODY_TIMEOUT_S = 120.0  # the largest body then needs 1.1 Mbit/s
_LINGER_S = 2.0


class _HeadTooLarge(Exception):
    """Raised inside the parser, which then stops and has the protocol answer."""


class _NoProxy(Exception):
    """The client takes us for one. Raised as above."""


class _Parser(HttpRequestParser):
    """Reads on where a client offers another protocol: no offer is taken up, and a body behind it is a body.

    Java's own client, for one, offers HTTP/2 with its first request. The parser would stop behind the head.
    """

    def __init__(self, protocol: "LimitedProtocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse what came."""
        try:
            super().feed_data(data)
        except HttpParserUpgrade as offered:
            self.feed_data(self._protocol.head_without_offer() + data[offered.args[0] :])


class LimitedProtocol(HttpToolsProtocol):
    """Turns away a client whose request head is too large, or whose head or body does not end in time."""

    max_header_bytes: int
    header_timeout_s: float
    body_timeout_s: float

    _in_head = True
    _in_message = False
    _head_bytes = 0
    """Of the head that is coming, as far as the parser has reported it."""
    _unreported_bytes = 0
    """Come since the parser's last report: a piece of one header, which it keeps until its end."""
    _hung_up = False
    _timer: TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = _Parser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn

    def connection_made(self, transport: AsyncTransport) -> None:  # type: ignore[override]
        """Expect a head from the first moment on."""
        super().connection_made(transport)
        self._expect_within(self.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Check what the parser does not see: one header may come in many pieces."""
        if self._hung_up or (not self._in_message and not data.strip(b"\r\n")):
            return  # empty lines between requests keep no connection alive
        self._unreported_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._is_too_large():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Expect a head, again on a connection that is kept."""
        super().on_message_begin()
        extensions: Any = self.scope.setdefault("extensions", {})
        extensions[CUT_OFF] = self._cut_off_after
        self._in_head = self._in_message = True
        self._head_bytes = 0
        self._expect_within(self.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        """Count a piece of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; many of them may come in one piece."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is here: what follows is the body, whose size the routes limit."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _NoProxy
            return  # it comes again, without the offer
        self._in_head = False
        self._expect_within(self.body_timeout_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Nothing to wait for any more."""
        if self.parser.should_upgrade():
            return
        self._in_message = False
        self._stop_waiting()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def head_without_offer(self) -> bytes:
        """The head that is here, without the header that offers another protocol."""
        version = self.parser.get_http_version().encode()
        fields = [name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade"]
        return b"%s %s HTTP/%s\r\n%s\r\n" % (self.parser.get_method(), self.url, version, b"".join(fields))

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or a head too large, in the shape of every other error; then hang up."""
        if self._is_too_large():
            self._hang_up(431, _HEAD_TOO_LARGE)
        else:
            self._hang_up(400, _NOT_HTTP)

    def _cut_off_after(self, seconds: float) -> None:
        """Let go of the connection then, whatever of the answer its client has not read by that time."""
        self.loop.call_later(seconds, self.transport.abort)

    def _run_out_of_time(self) -> None:
        """Say so if there is a request that has begun to come and has no answer; and close."""
        answered = self.cycle is not None and self.cycle.response_complete and not self._in_head
        if self._hung_up or not self._in_message or answered:
            self.transport.close()
        else:
            self._hang_up(408, _TOO_SLOW)

    def _hang_up(self, status: int, problem: ApiError) -> None:
        """Say this, unless another answer is on its way, and throw away what still comes, until the client ends too.

        To close at once, with something unread, would be a reset, which can take from the client what was said.
        """
        self._hung_up = True
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not answering or not self.cycle.response_started:
            self.transport.write(_last_words(HTTPStatus(status), problem, self._request_id(answering)))
        self.transport.write_eof()
        self._expect_within(_LINGER_S)

    def _request_id(self, answering: bool) -> RequestId:
        """Of the request that is refused: known already if its route has begun to work on it."""
        scope: Any = self.cycle.scope if answering else self.scope if self._in_message else None
        return new_request_id() if scope is None else request_id(scope)

    def _count(self, n_bytes: int) -> None:
        self._unreported_bytes = 0
        self._head_bytes += n_bytes
        if self._is_too_large():
            raise _HeadTooLarge

    def _is_too_large(self) -> bool:
        return self._head_bytes + self._unreported_bytes > self.max_header_bytes

    def _expect_within(self, timeout_s: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(timeout_s, self._run_out_of_time)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_HEAD_TOO_LARGE = InvalidRequest("The request head is too large.", code="headers_too_large")
_NOT_HTTP = InvalidRequest("The request is not valid HTTP.", code="bad_http")
_TOO_SLOW = InvalidRequest("The request took too long to come.", code="request_timeout")


def _last_words(status: HTTPStatus, problem: ApiError, of: RequestId) -> bytes:
    """A whole answer in the shape of every other error, with which the connection ends."""
    body = msgspec.json.encode({"error": problem.body()})
    head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}x-request-id: {of}\r\nconnection: close\r\n\r\n".encode() + body


class _Server(Server):
    """Leaves signals to whoever runs it: the engines must end too, after the last request."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def make_server(app: ASGIApp, config: ServerConfig) -> Server:
    """A server for `app` that leaves signals and logging to its caller: await `serve()`, end it by `should_exit`."""
    limits = {
        "max_header_bytes": config.max_header_bytes,
        "header_timeout_s": config.header_timeout_s,
        "body_timeout_s": _BODY_TIMEOUT_S,
    }
    return _Server(
        Config(
            _with_head(app),
            host=config.host,
            port=config.port,
            http=type("ConfiguredProtocol", (LimitedProtocol,), limits),
            ws="none",
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=round(config.keep_alive_s),
            timeout_graceful_shutdown=round(config.drain_timeout_s),
        )
    )


def _with_head(app: ASGIApp) -> ASGIApp:
    """Answer HEAD as GET is answered; the server leaves the body out."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        as_get: Any = {**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope
        await app(as_get, receive, send)

    return answer

"""Speaks HTTP to one engine over its Unix socket. Relays bytes as they come and never looks into a stream."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO  # rather than bytes, which aiohttp would write in one go and warn of when they are many
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from preble.daemon.engine import metrics
from preble.daemon.engine.launch import KEEP_ALIVE_S
from preble.daemon.engine.metrics import EngineMetrics
from preble.daemon.errors import EngineError, InvalidRequest

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0
"""For everything that is not a stream; a render of a very long prompt takes a second."""
_EXAMINATIONS = 10
_EXAMINATION_INTERVAL_S = 0.01
_FAULTS = (aiohttp.ClientError, OSError, TimeoutError)
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class EngineResponse:
    """The head of an engine's answer, and its body as it comes."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    chunks: AsyncIterator[bytes]
    """The body's bytes, as many at a time as have arrived. Raises `EngineError` if the engine breaks off.

    One reader at a time; another may go on where a cancelled one was.
    """


class _Error(msgspec.Struct):
    message: str = "the engine refused the request"
    param: str | None = None
    code: int | str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


class _Rendered(msgspec.Struct):
    token_ids: list[int]


class _Model(msgspec.Struct):
    id: str
    max_model_len: int


class _Models(msgspec.Struct):
    data: list[_Model]


class EngineClient:
    """One engine's HTTP interface. Make it inside a running event loop; close it once, at the end.

    It holds no state of the engine, so it stays usable when another engine takes over the socket.
    """

    def __init__(self, socket_path: Path, on_gone: Callable[[], None] = lambda: None) -> None:
        """`on_gone` is called when a call fails and nobody listens on the socket any more, before the error is raised.

        So whoever sees the error and tries again does not choose the same engine, whose end may take the kernel a
        tenth of a second to report.
        """
        self._socket_path = socket_path
        self._on_gone = on_gone
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(
                path=str(socket_path),
                limit=0,  # how much is in flight is the scheduler's decision
                keepalive_timeout=KEEP_ALIVE_S / 2,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
            base_url="http://engine",
        )

    async def close(self) -> None:
        """Cut all connections."""
        await self._session.close()

    @asynccontextmanager
    async def stream(self, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[EngineResponse]:
        """POST `body` as it is; leaving the block early cuts the connection.

        Raises `EngineError` if the engine cannot be reached or breaks off, here or while `chunks` is read. Any answer
        of the engine, also a refusal, is a response.
        """
        try:
            response = await self._session.post(path, data=BytesIO(body), headers={**_JSON, **headers})
        except _FAULTS as error:
            raise await self._examine(error) from error
        try:
            yield EngineResponse(response.status, response.headers, _Chunks(response.content, self._examine))
        finally:
            response.release()  # an unread rest closes the connection

    async def abort(self, engine_request_ids: Sequence[str]) -> None:
        """Ask the engine to end these requests; each then ends regularly, with finish reason "abort" and its usage.

        The engine's own ids: `cmpl-R-I` for prompt I of a completion and `chatcmpl-R` for a chat that was sent with
        the header `X-Request-Id: R`. Unknown ids are ignored. Raises `EngineError`.
        """
        await self._call("POST", "/inference/v1/abort_requests", {"request_ids": list(engine_request_ids)})

    async def health(self, timeout_s: float) -> None:
        """Raise `EngineError` unless the engine says within `timeout_s` that it is well."""
        await self._call("GET", "/health", timeout_s=timeout_s)

    async def metrics(self) -> EngineMetrics:
        """Read the engine's counters. Raises `EngineError`."""
        return metrics.parse((await self._call("GET", "/metrics")).decode())

    async def models(self) -> dict[str, int]:
        """Return the longest prompt plus output, in tokens, of each model that is served. Raises `EngineError`."""
        listed = _decode(await self._call("GET", "/v1/models"), _Models)
        return {model.id: model.max_model_len for model in listed.data}

    async def render_chat(self, body: Mapping[str, Any]) -> list[int]:
        """Return the token ids of a chat completion request's prompt.

        Raises `InvalidRequest` with the engine's own words when the engine refuses it, `EngineError` when it fails.
        """
        return _decode(await self._call("POST", "/v1/chat/completions/render", body), _Rendered).token_ids

    async def render_completion(self, body: Mapping[str, Any]) -> list[list[int]]:
        """Return the token ids of each prompt of a completion request. Raises as `render_chat`."""
        answer = await self._call("POST", "/v1/completions/render", body)
        return [rendered.token_ids for rendered in _decode(answer, list[_Rendered])]

    async def complete(self, body: Mapping[str, Any]) -> None:
        """Run a completion for its effect or its duration, not its text. Raises as `render_chat`."""
        await self._call("POST", "/v1/completions", body)

    async def _examine(self, fault: Exception) -> EngineError:
        """Find out whether the engine is gone. A dying process closes its files one by one, so this takes a moment."""
        for _ in range(_EXAMINATIONS):
            if not _is_listening(self._socket_path):
                self._on_gone()
                break
            await asyncio.sleep(_EXAMINATION_INTERVAL_S)
        return EngineError(f"the engine cannot be reached or broke off: {fault or type(fault).__name__}")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> bytes:
        data = None if body is None else BytesIO(msgspec.json.encode(body))
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
        try:
            async with self._session.request(method, path, data=data, headers=_JSON, timeout=timeout) as response:
                answer = await response.read()
        except _FAULTS as error:
            raise await self._examine(error) from error
        if response.status >= 500:
            raise EngineError(f"the engine answered {path} with status {response.status}")
        if response.status >= 400:
            refusal = _decode(answer, _ErrorBody).error
            raise InvalidRequest(refusal.message, param=refusal.param)
        return answer


class _Chunks(AsyncIterator[bytes]):
    """A class and not a generator, which would be over once a reader is cancelled."""

    def __init__(self, content: aiohttp.StreamReader, examine: Callable[[Exception], Awaitable[EngineError]]) -> None:
        self._content = content
        self._examine = examine

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._content.readany()
        except _FAULTS as error:
            raise await self._examine(error) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _is_listening(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(socket_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:  # more callers than it has accepted yet
            return True
    return True


_T = TypeVar("_T")


def _decode(answer: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.MsgspecError as error:
        raise EngineError(f"the engine answered nonsense: {error}") from error

"""What a request needs of an engine, and how an engine says no."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import msgspec

from preble.daemon.errors import InvalidRequest


class Upstream(Protocol):
    """An engine's answer."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers, case-insensitive."""

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        """The body. Survives the cancellation of whoever reads it."""


class EngineDoor(Protocol):
    """The part of an engine client that a request needs."""

    def stream(self, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
        """POST; an async context manager that gives an `Upstream`."""

    async def abort(self, engine_request_ids: tuple[str, ...]) -> None:
        """End these requests in the engine."""


class _EngineErrorBody(msgspec.Struct):
    """The body of an engine's refusal: `{"error": {...}}`."""

    error: "_EngineErrorDetail"


class _EngineErrorDetail(msgspec.Struct):
    message: str
    param: str | None = None


def engine_refusal(body: bytes) -> InvalidRequest:
    """An engine's 4xx in OpenAI's shape: engines name the field as "body.n" and put the status in `code`."""
    try:
        error = msgspec.json.decode(body, type=_EngineErrorBody).error
    except msgspec.MsgspecError:
        return InvalidRequest("The engine refused the request.")
    return InvalidRequest(error.message, param=error.param.removeprefix("body.") if error.param else None)

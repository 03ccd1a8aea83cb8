"""Every error as one JSON shape, OpenAI's: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Callable
from http import HTTPStatus
from math import ceil
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from preble.daemon.errors import ApiError, InvalidRequest, NotFound, TooLarge

AnyRequest = Request[Any, Any, Any]

_log = structlog.get_logger(__name__)


def exception_handlers() -> dict[int | type[Exception], Callable[[AnyRequest, Any], Response[Any]]]:
    """For `Litestar(exception_handlers=...)`."""
    return {ApiError: _api_error, HTTPException: _http_exception, Exception: _bug}


def _api_error(_: AnyRequest, error: ApiError) -> Response[Any]:
    return _response(error, error.status)


def _http_exception(request: AnyRequest, error: HTTPException) -> Response[Any]:
    """Litestar's own refusals: unknown routes, wrong methods, bodies too large, parameters of the wrong type."""
    status = HTTPStatus(error.status_code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _bug(request, error)
    problem: ApiError
    match status:
        case HTTPStatus.NOT_FOUND:
            problem = NotFound(f"No such route: {request.method} {request.url.path}")
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            problem = TooLarge()
        case _:
            code = status.phrase.lower().replace(" ", "_")
            problem = InvalidRequest(error.detail, param=_first_key(error.extra), code=code)
    return _response(problem, status, error.headers)


def _bug(request: AnyRequest, error: Exception) -> Response[Any]:
    _log.error("unexpected_error", path=request.url.path, exc_info=error)
    problem = ApiError("Preble failed unexpectedly. The daemon's log says more.")
    return _response(problem, problem.status)


def _response(error: ApiError, status: int, headers: dict[str, str] | None = None) -> Response[Any]:
    headers = {**(headers or {}), **error.headers}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(ceil(error.retry_after_s * 1000))
    return Response({"error": error.body()}, status_code=status, headers=headers)


def _first_key(extra: object) -> str | None:
    """The field that Litestar's validation complains of, if it names one."""
    first = extra[0] if isinstance(extra, list) and extra else None
    key = first.get("key") if isinstance(first, dict) else None
    return key if isinstance(key, str) else None

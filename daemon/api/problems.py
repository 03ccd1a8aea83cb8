"""Every error as one JSON shape, OpenAI's: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Callable
from http import HTTPStatus
from math import ceil
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException

from preble.daemon.errors import ApiError

_log = structlog.get_logger(__name__)


def exception_handlers() -> dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[Any]]]:
    """For `Litestar(exception_handlers=...)`."""
    return {ApiError: _api_error, HTTPException: _http_exception, Exception: _bug}


def error_response(error: ApiError) -> Response[Any]:
    """The answer to a request that ends with this error."""
    return Response({"error": error.body()}, status_code=error.status, headers=_headers(error))


def _headers(error: ApiError) -> dict[str, str]:
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(ceil(error.retry_after_s * 1000))
    return headers


def _api_error(_: Request[Any, Any, Any], error: ApiError) -> Response[Any]:
    return error_response(error)


def _http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    """Litestar's own refusals: unknown routes, wrong methods, bodies too large, parameters of the wrong type."""
    status = error.status_code
    message = error.detail
    if status == HTTPStatus.NOT_FOUND:
        message = f"No such route: {request.method} {request.url.path}"
    body = ApiError(message, param=_first_key(error.extra), code=HTTPStatus(status).phrase.lower().replace(" ", "_"))
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else ApiError.type
    return Response({"error": {**body.body(), "type": kind}}, status_code=status, headers=error.headers or {})


def _first_key(extra: object) -> str | None:
    """The field that Litestar's validation complains of, if it names one."""
    first = extra[0] if isinstance(extra, list) and extra else None
    key = first.get("key") if isinstance(first, dict) else None
    return key if isinstance(key, str) else None


def _bug(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    _log.error("unexpected_error", path=request.url.path, exc_info=error)
    return error_response(ApiError("Preble failed unexpectedly. The daemon's log says more."))

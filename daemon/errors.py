"""Everything that can go wrong at an edge, as one tree. The core asserts; the edges raise these.

    PrebleError
    ├── ConfigError            preble.toml is wrong: names file and key
    ├── EngineError            an engine could not be reached, or ended, or answered nonsense
    ├── Unreachable            a command found no daemon
    ├── Refused                the daemon refused a command
    └── ApiError               ends a request: carries status and OpenAI's type, code and param
        ├── InvalidRequest     400
        ├── Unauthenticated    401
        ├── Forbidden          403
        ├── NotFound           404
        ├── Conflict           409
        ├── PreconditionFailed 412
        ├── TooLarge           413
        ├── RateLimited        429  says when to come back
        │   └── QuotaExhausted 429  a budget is spent
        ├── EngineFailed       502  the engine died after it had begun to answer, or every try failed
        ├── Unavailable        503  no engine can take the request now; says when to come back
        └── TimedOut           504

The class docstring of an `ApiError` is its default message.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class PrebleError(Exception):
    """Anything Preble reports by name."""


class ConfigError(PrebleError):
    """The configuration is wrong."""


class EngineError(PrebleError):
    """An engine could not be reached or did not answer."""


class Unreachable(PrebleError):
    """No daemon answers."""


class Refused(PrebleError):
    """The daemon refused."""


class ApiError(PrebleError):
    """The request failed."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    default_code: ClassVar[str | None] = None
    headers: Mapping[str, str] = MappingProxyType({})
    """What the answer says of it beside `retry-after`."""

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.message = message or (self.__doc__ or "").strip()
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    def body(self) -> dict[str, str | None]:
        """What stands under `error` in OpenAI's error shape."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


class InvalidRequest(ApiError):
    """The request is malformed."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(ApiError):
    """Missing or invalid API key. Send it as `Authorization: Bearer KEY`."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class Forbidden(ApiError):
    """This key may not do that."""

    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(ApiError):
    """No such thing."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class Conflict(ApiError):
    """It exists already, or its state does not allow this."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class PreconditionFailed(ApiError):
    """It has been changed since it was read."""

    status = 412
    type = "invalid_request_error"
    default_code = "precondition_failed"


class TooLarge(ApiError):
    """The request body is too large."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class RateLimited(ApiError):
    """Too many requests."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_s: float | None = None,
        limit: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit
        """The setting that it is about; None: it is no tenant's or key's."""
        self.headers = headers or {}


class QuotaExhausted(RateLimited):
    """A budget of tokens is spent."""

    type = "insufficient_quota"
    default_code = "insufficient_quota"


class EngineFailed(ApiError):
    """The engine that ran this request failed."""

    status = 502
    default_code = "engine_failed"


class Unavailable(ApiError):
    """No engine can take this request at the moment."""

    status = 503
    type = "service_unavailable_error"
    default_code = "no_engine"


class TimedOut(ApiError):
    """The request did not finish within the time allowed."""

    status = 504
    type = "timeout_error"
    default_code = "timeout"

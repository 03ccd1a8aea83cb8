"""What `/schema` says of the routes beyond what their signatures do: bodies, refusals, keys.

Bodies are read by the routes themselves, once the caller is known, so their signatures cannot name them.
"""

from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

import msgspec
from litestar import Request, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from preble.daemon import __version__
from preble.daemon.errors import (
    ApiError,
    Conflict,
    EngineFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    RateLimited,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from preble.daemon.wire.accounts import KeyCreate, KeyRotate, KeySettings, TenantCreate
from preble.daemon.wire.live import WhatIf
from preble.daemon.wire.openai import ChatRequest, CompletionRequest, Problem
from preble.daemon.wire.pins import PinWanted, WarmUp
from preble.daemon.wire.settings import TenantSettings
from preble.daemon.wire.templates import LabelMove, TemplateCreate, TemplateRender

_JSON = "application/json"
_EVENTS = "text/event-stream"
_CSV = "text/csv"
_KEY = "key"
_TEXT = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
_Body = type[msgspec.Struct] | UnionType
_BODIES: tuple[_Body, ...] = (
    ChatRequest, CompletionRequest, ChatRequest | CompletionRequest,
    KeyCreate, KeyRotate, KeySettings, TenantCreate, TenantSettings,
    LabelMove, TemplateCreate, TemplateRender, PinWanted, WarmUp, WhatIf,
)  # fmt: skip
_CHANGES = (KeySettings, TenantSettings)
"""Bodies that change what is there: each of their fields can be left out, and then stays."""
_LIMITS = tuple(
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
)
_REFUSALS = (
    InvalidRequest, Unauthenticated, Forbidden, NotFound, Conflict, PreconditionFailed, TooLarge, RateLimited,
    EngineFailed, Unavailable, TimedOut,
)  # fmt: skip
_DESCRIPTION = """
Multi-tenant LLM serving. Every error has OpenAI's shape, and every answer names its request in `x-request-id`.

Before any route is looked for, a request may be refused with 400 if it is no HTTP, 408 if it takes too long to come,
and 431 if its head is too large. Other routes than these are 404, other methods 405.
""".strip()


def operation(*refusals: type[ApiError]) -> type[Operation]:
    """For `operation_class=` of a route that wants no key and refuses only so."""

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            _document(self, refusals)

    return Documented


def keyed(
    *refusals: type[ApiError],
    body: _Body | None = None,
    streams: bool = False,
    tagged: bool = False,
    csv: bool = False,
    only_events: bool = False,
) -> type[Operation]:
    """The same of a route that wants a key, and perhaps reads a body, or answers with events if the body asks it to.

    `tagged` if its answers have an ETag, `csv` if it can answer so, `only_events` if they are nothing else than events.
    """

    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            _document(self, (Unauthenticated, Forbidden, RateLimited, *refusals), tagged=tagged)
            self.security = [{_KEY: []}]
            if body is not None:
                self.request_body = Reference(f"#/components/requestBodies/{_name(body)}")
            if streams:
                _answer_of(self)[_EVENTS] = _TEXT
                _add_places(self)
            if csv:
                _answer_of(self)[_CSV] = _TEXT
            if only_events:
                _answer_of(self).clear()
                _answer_of(self)[_EVENTS] = _TEXT

    return Documented


def openapi_config() -> OpenAPIConfig:
    """For `Litestar(openapi_config=...)`."""
    return OpenAPIConfig(
        title="Preble",
        version=__version__,
        description=_DESCRIPTION,
        use_handler_docstrings=True,
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, before_request=_refuse_unknown),
        components=Components(
            request_bodies={_name(body): _request_body(body) for body in _BODIES},
            responses={refusal.__name__: _refusal(refusal) for refusal in _REFUSALS},
            security_schemes={
                _KEY: SecurityScheme(type="http", scheme="bearer", description="A tenant's key, or an operator's.")
            },
        ),
    )


def _refuse_unknown(request: Request[Any, Any, Any]) -> None:
    """Refuse as all unknown routes are refused: Litestar has a page of its own for it, whose path is a parameter."""
    if "path" in request.path_params:
        raise NotFoundException


def _document(told: Operation, refusals: tuple[type[ApiError], ...], *, tagged: bool = False) -> None:
    """Replace the refusals that Litestar supposes by those that there are."""
    assert told.responses is not None
    answers = {status: answer for status, answer in told.responses.items() if status.startswith("2")}
    for answer in answers.values():
        assert isinstance(answer, OpenAPIResponse)
        answer.headers = {**(answer.headers or {}), **_headers("x-request-id", *(["etag"] if tagged else []))}
    refused = {str(one.status): Reference(f"#/components/responses/{one.__name__}") for one in refusals}
    told.responses = {**answers, **dict(sorted(refused.items()))}


def _answer_of(told: Operation) -> dict[str, Any]:
    """What it answers with, by media type."""
    assert told.responses is not None
    answer = told.responses["200"]
    assert isinstance(answer, OpenAPIResponse)
    assert answer.content is not None
    return answer.content


def _add_places(told: Operation) -> None:
    assert told.responses is not None
    answer = told.responses["200"]
    assert isinstance(answer, OpenAPIResponse)
    where = _headers("x-preble-gpu", "x-preble-decision", "x-preble-cached-tokens", *_LIMITS)
    answer.headers = {**(answer.headers or {}), **where}


def _request_body(body: _Body) -> RequestBody:
    first, *others = kinds = _kinds(body)
    schema: Any = {"oneOf": [_requiring_input(kind) for kind in kinds]} if others else _schema(first)
    return RequestBody(required=True, content={_JSON: OpenAPIMediaType(schema=schema)})


def _kinds(body: _Body) -> tuple[type[msgspec.Struct], ...]:
    return get_args(body) or (body,)


def _name(body: _Body) -> str:
    return "Or".join(kind.__name__ for kind in _kinds(body))


def _refusal(refusal: type[ApiError]) -> OpenAPIResponse:
    names = ["x-request-id"]
    if refusal is Unauthenticated:
        names += ["www-authenticate"]
    if refusal in (RateLimited, Unavailable):
        names += ["retry-after", "retry-after-ms"]
    if refusal is RateLimited:
        names += ["x-should-retry", *_LIMITS]
    return OpenAPIResponse(
        description=refusal().message,
        content={_JSON: OpenAPIMediaType(schema=_schema(Problem))},
        headers=_headers(*names),
    )


def _headers(*names: str) -> dict[str, OpenAPIHeader | Reference]:
    return {name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING)) for name in names}


def _schema(kind: type[msgspec.Struct]) -> Any:
    """JSON Schema, as msgspec reads the struct; whole, for Litestar keeps the place for named schemas to itself."""
    [reference], named = msgspec.json.schema_components([kind])
    whole = _whole(reference, named)
    if issubclass(kind, ChatRequest | CompletionRequest):
        whole["anyOf"] = [{"required": [kind.INPUT_FIELD]}, {"required": ["template"]}]
    return _optional(whole) if kind in _CHANGES else whole


def _requiring_input(kind: type[msgspec.Struct]) -> Any:
    """The same of one of several kinds of requests, which are told apart by that."""
    assert issubclass(kind, ChatRequest | CompletionRequest)
    schema = _schema(kind)
    return {**schema, "required": [*schema["required"], kind.INPUT_FIELD]}


def _optional(part: Any) -> Any:
    """The same, with every field to be left out, and then not taken for its default."""
    match part:
        case dict():
            return {name: _optional(value) for name, value in part.items() if name not in ("required", "default")}
        case list():
            return [_optional(value) for value in part]
    return part


def _whole(part: Any, named: dict[str, Any]) -> Any:
    match part:
        case {"$ref": str(reference)}:
            return _whole(named[reference.rpartition("/")[2]], named)
        case dict():
            return {name: _whole(value, named) for name, value in part.items()}
        case list():
            return [_whole(value, named) for value in part]
    return part

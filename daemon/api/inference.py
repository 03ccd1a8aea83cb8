"""The routes of tenants' applications: OpenAI's, answered by the engines."""

from asyncio import FIRST_COMPLETED, CancelledError, Task, create_task, wait
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeVar, cast

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as AsgiScope
from msgspec.structs import replace

from preble.daemon.api.bodies import read_body, read_object
from preble.daemon.api.models import ServedModel, find_model, models_of, read_request, without_template
from preble.daemon.api.request_ids import request_id as id_of
from preble.daemon.api.schema import keyed
from preble.daemon.errors import EngineFailed, InvalidRequest, NotFound, TimedOut, TooLarge, Unavailable
from preble.daemon.flow.call import Answer, Call
from preble.daemon.flow.encode import ModelEncoder, engine_request_ids
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Cancelled
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.ids import KeyId, RequestId, TenantName
from preble.daemon.sched.types import RequestSpec
from preble.daemon.templates.using import Use
from preble.daemon.tenancy.model import Principal, Scope
from preble.daemon.tenancy.salts import CacheScope
from preble.daemon.wire.openai import ChatRequest, Completion, CompletionRequest, ModelList, ModelObject
from preble.daemon.wire.settings import Limits

AnyRequest = Request[Any, Any, Any]
_Kind = TypeVar("_Kind", ChatRequest, CompletionRequest)

_REFUSALS = (InvalidRequest, NotFound, TooLarge, EngineFailed, Unavailable, TimedOut)
_RESTART_S = 5.0
_FAREWELL_S = 2.0


@dataclass(frozen=True, slots=True)
class InferenceService:
    """What the routes below need, put together by the composition root."""

    models: Mapping[str, ServedModel]
    authenticate: Callable[[AnyRequest, Scope], Principal]
    cache_scope: Callable[[TenantName, str | None], CacheScope]
    """Whose cached prefixes a tenant's request can find, if it has this salt of its own."""
    limits: Callable[[TenantName, KeyId], Iterable[Limits]]
    """Those that hold for a tenant's key now: all of them."""
    templates: TemplateDesk
    live: Callable[[Call], RequestLife]
    """Begins a request's life."""


Inference = NamedDependency[InferenceService]


class InferenceController(Controller):
    """`/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

    path = "/v1"
    tags = ("inference",)

    @post("/chat/completions", status_code=200, operation_class=keyed(*_REFUSALS, body=ChatRequest, streams=True))
    async def chat_completions(self, request: AnyRequest, inference: Inference) -> Response[Completion]:
        """Answer a conversation."""
        return await _infer(request, inference, ChatRequest, lambda encoder: encoder.chat)

    @post("/completions", status_code=200, operation_class=keyed(*_REFUSALS, body=CompletionRequest, streams=True))
    async def completions(self, request: AnyRequest, inference: Inference) -> Response[Completion]:
        """Continue a text."""
        return await _infer(request, inference, CompletionRequest, lambda encoder: encoder.completion)

    @get("/models", operation_class=keyed())
    async def models(self, request: AnyRequest, inference: Inference) -> ModelList:
        """List the models served."""
        principal = inference.authenticate(request, Scope.INFERENCE)
        return ModelList(data=[_model_object(model) for model in _models_of(principal, inference).values()])

    @get("/models/{name:path}", operation_class=keyed(NotFound))
    async def model(self, request: AnyRequest, inference: Inference, name: FromPath[str]) -> ModelObject:
        """Describe one model."""
        principal = inference.authenticate(request, Scope.INFERENCE)
        return _model_object(find_model(_models_of(principal, inference), name.removeprefix("/")))


async def _infer(
    request: AnyRequest,
    inference: InferenceService,
    kind: type[_Kind],
    encode: Callable[
        [ModelEncoder], Callable[[RequestId, TenantName, _Kind, Mapping[str, Any]], Awaitable[RequestSpec]]
    ],
) -> Response[Any]:
    received_s = monotonic()
    request_id = id_of(request.scope)
    principal = inference.authenticate(request, Scope.INFERENCE)
    assert principal.tenant is not None, "only tenants' keys have the scope"
    raw = await read_body(request)
    body = read_object(raw)
    wanted = read_request(body, kind)
    model = find_model(_models_of(principal, inference), wanted.model)
    scope = inference.cache_scope(principal.tenant, wanted.cache_salt)
    use = None
    if wanted.template is not None:
        use = await inference.templates.use(principal.tenant, model.name, wanted, body)
        raw, body = _expanded(raw, use), {**without_template(body), **use.fields}
        wanted = read_request(body, kind)
    wanted, body = replace(wanted, cache_salt=scope.salt), {**body, "cache_salt": scope.salt}
    stream = bool(wanted.stream)
    hide_usage = stream and not (wanted.stream_options and wanted.stream_options.include_usage)
    changes = _with_usage(body) if hide_usage else {}
    call = Call(
        request_id=request_id,
        tenant=principal.tenant,
        key_id=principal.key_id,
        path=request.url.path,
        model=model.name,
        body=_for_engine(raw, scope.salt, changes),
        stream=stream,
        hide_usage=hide_usage,
        hide_cache=scope.is_shared,
        encode=_proven(
            partial(inference.templates.prove, model.name, use, body, scope.salt) if use else None,
            partial(encode(model.encoder), request_id, principal.tenant, wanted, body),
        ),
        asks_length=wanted.asked_tokens is not None,
        template=use.named if use else None,
        salt=scope.salt,
        shortened=lambda tokens: _for_engine(raw, scope.salt, {**changes, kind.LENGTH_FIELD: tokens}),
        engine_ids=engine_request_ids(request_id, wanted),
        received_s=received_s,
    )
    life = inference.live(call)
    answer = await _first_output(request, life)
    if stream:
        return _Stream(answer, life)
    content = b"".join([chunk async for chunk in answer.chunks])
    return Response(content, headers=dict(answer.headers), media_type=answer.content_type)


def _models_of(principal: Principal, inference: InferenceService) -> Mapping[str, ServedModel]:
    assert principal.tenant is not None, "only tenants' keys have the scope"
    return models_of(inference.models, inference.limits(principal.tenant, principal.key_id))


def _expanded(raw: bytes, use: Use) -> bytes:
    """The client's own words, with a template in them."""
    fields = without_template(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    return msgspec.json.encode({**fields, **use.fields})


def _proven(
    prove: Callable[[], Awaitable[None]] | None, encode: Callable[[], Awaitable[RequestSpec]]
) -> Callable[[], Awaitable[RequestSpec]]:
    """Encodes what has been shown to be no more than it says, if that is in doubt."""
    if prove is None:
        return encode

    async def proven() -> RequestSpec:
        await prove()
        return await encode()

    return proven


def _for_engine(raw: bytes, salt: str, changes: Mapping[str, Any]) -> bytes:
    """The client's own words, but for the salt, which is ours to give, and what else must change."""
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, **changes, "cache_salt": salt})


def _with_usage(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What has the engine append the usage to its stream.

    It is not to put it into every event, which the client gets only if it asks for usage.
    """
    options = {**(body.get("stream_options") or {}), "include_usage": True}
    options.pop("continuous_usage_stats", None)
    return {"stream_options": options}


async def _first_output(request: AnyRequest, life: RequestLife) -> Answer:
    """Wait for the first output, or for whatever ends the request before it."""
    answering = create_task(life.answer())
    await _until_done(answering, request.receive, life)
    return await answering


class _Stream(Response[None]):
    """An answer on its way out. However that ends, the answer is closed: on that hangs the end of its request."""

    def __init__(self, answer: Answer, life: RequestLife) -> None:
        super().__init__(None)
        self._chunks = cast(AsyncGenerator[bytes, None], answer.chunks)
        self._head = {"content-type": answer.content_type, **answer.headers}
        self._life = life

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """Leave headers and pieces to `_relay`."""
        return self._relay

    async def _relay(self, _: AsgiScope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            sending = create_task(self._send(send))
            await _until_done(sending, receive, self._life, patience_s=_FAREWELL_S)
            sending.cancel()  # unless it is done, its client does not read, and never will
            await wait((sending,))
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self._head.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_done(work: Task[Any], receive: Receive, life: RequestLife, *, patience_s: float | None = None) -> None:
    """Wait for the work on a request. Once the request is abandoned that ends early: within `patience_s`, or ever.

    It is abandoned when the client leaves, or when the server cancels this because its time to end has come. Then
    the client is still told.
    """
    leaving = create_task(_client_left(receive))
    try:
        await wait((work, leaving), return_when=FIRST_COMPLETED)
        if not work.done():
            life.abandon(Cancelled())
    except CancelledError:
        life.abandon(Unavailable("Preble is ending.", code="shutting_down", retry_after_s=_RESTART_S))
    finally:
        leaving.cancel()
    await wait((work,), timeout=patience_s)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _model_object(model: ServedModel) -> ModelObject:
    return ModelObject(id=model.name, created=model.created_s, max_model_len=model.max_model_len())

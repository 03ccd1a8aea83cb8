"""The routes of tenants' applications: OpenAI's, answered by the engines."""

from asyncio import FIRST_COMPLETED, create_task, wait
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from time import monotonic
from typing import Any, TypeVar

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.response import Stream

from preble.daemon.api.bodies import convert, read_object
from preble.daemon.api.problems import error_response
from preble.daemon.errors import ApiError, NotFound
from preble.daemon.flow.encode import ModelEncoder, engine_request_ids
from preble.daemon.flow.request import Answer, Call, RequestLife
from preble.daemon.flow.runtime import Cancelled
from preble.daemon.ids import ModelName, RequestId
from preble.daemon.sched.types import RequestSpec
from preble.daemon.tenancy.model import Principal, Scope
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

AnyRequest = Request[Any, Any, Any]
_Kind = TypeVar("_Kind", ChatRequest, CompletionRequest)

_ADDED_USAGE = {"include_usage": True}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that tenants can name."""

    name: ModelName
    created_s: int
    encoder: ModelEncoder
    max_model_len: Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class InferenceService:
    """What the routes below need, put together by the composition root."""

    models: Mapping[str, ServedModel]
    authenticate: Callable[[AnyRequest, Scope], Principal]
    live: Callable[[Call], RequestLife]
    """Begins a request's life."""


class InferenceController(Controller):
    """`/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

    path = "/v1"

    @post("/chat/completions", status_code=200)
    async def chat_completions(self, request: AnyRequest, inference: InferenceService) -> Response[Any]:
        """Answer a conversation."""
        return await _infer(request, inference, ChatRequest, lambda encoder: encoder.chat)

    @post("/completions", status_code=200)
    async def completions(self, request: AnyRequest, inference: InferenceService) -> Response[Any]:
        """Continue a text."""
        return await _infer(request, inference, CompletionRequest, lambda encoder: encoder.completion)

    @get("/models")
    async def models(self, request: AnyRequest, inference: InferenceService) -> dict[str, Any]:
        """List the models served."""
        inference.authenticate(request, Scope.INFERENCE)
        return {"object": "list", "data": [_model_object(model) for model in inference.models.values()]}

    @get("/models/{name:path}")
    async def model(self, request: AnyRequest, inference: InferenceService, name: str) -> dict[str, Any]:
        """Describe one model."""
        inference.authenticate(request, Scope.INFERENCE)
        return _model_object(_served(inference, name.removeprefix("/")))


async def _infer(
    request: AnyRequest,
    inference: InferenceService,
    kind: type[_Kind],
    encode: Callable[[ModelEncoder], Callable[[RequestId, _Kind, Mapping[str, Any]], Awaitable[RequestSpec]]],
) -> Response[Any]:
    received_s = monotonic()
    principal = inference.authenticate(request, Scope.INFERENCE)
    assert principal.tenant is not None, "only tenants' keys have the scope"
    raw = await request.body()
    body = read_object(raw)
    wanted = convert(body, kind)
    model = _served(inference, wanted.model)
    request_id = RequestId(f"req_{token_hex(12)}")
    stream = bool(wanted.stream)
    hide_usage = stream and not (wanted.stream_options and wanted.stream_options.include_usage)
    if hide_usage:
        options = body.get("stream_options") or {}
        raw = msgspec.json.encode({**body, "stream_options": options | _ADDED_USAGE})
    call = Call(
        request_id=request_id,
        tenant=principal.tenant,
        key_id=principal.key_id,
        path=request.url.path,
        model=model.name,
        body=raw,
        stream=stream,
        hide_usage=hide_usage,
        encode=partial(encode(model.encoder), request_id, wanted, body),
        engine_ids=engine_request_ids(request_id, wanted),
        received_s=received_s,
    )
    return await _respond(request, inference.live(call), request_id, stream=stream)


async def _respond(request: AnyRequest, life: RequestLife, request_id: RequestId, *, stream: bool) -> Response[Any]:
    """Wait for the first output, or for the client to leave, whichever comes first."""
    answering = create_task(life.answer())
    leaving = create_task(_client_left(request))
    try:
        await wait((answering, leaving), return_when=FIRST_COMPLETED)
        if not answering.done():
            life.abandon(Cancelled())
        answer = await answering
    except ApiError as error:
        refused = error_response(error)
        refused.headers["x-request-id"] = request_id
        return refused
    finally:
        leaving.cancel()
    return await _deliver(answer, stream=stream)


async def _deliver(answer: Answer, *, stream: bool) -> Response[Any]:
    if stream:
        kind = answer.content_type.partition(";")[0]  # the framework adds the charset itself
        return Stream(answer.chunks, headers=answer.headers, media_type=kind)
    body = b"".join([chunk async for chunk in answer.chunks])
    return Response(body, headers=dict(answer.headers), media_type=answer.content_type)


async def _client_left(request: AnyRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _served(inference: InferenceService, name: str) -> ServedModel:
    model = inference.models.get(name)
    if model is None:
        message = f"The model `{name}` does not exist. Served here: {', '.join(sorted(inference.models)) or 'none'}."
        raise NotFound(message, param="model", code="model_not_found")
    return model


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "preble",
        "max_model_len": model.max_model_len(),
    }

"""The models that requests may name, and what is read of a request to one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from preble.daemon.api.bodies import convert
from preble.daemon.errors import InvalidRequest, NotFound
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.ids import ModelName
from preble.daemon.wire.openai import MAX_PROMPTS, ChatRequest, CompletionRequest
from preble.daemon.wire.settings import Limits

_Kind = TypeVar("_Kind", ChatRequest, CompletionRequest)
_T = TypeVar("_T")
_SHOWN_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that tenants can name."""

    name: ModelName
    created_s: int
    encoder: ModelEncoder
    max_model_len: Callable[[], int | None]


def find_model(models: Mapping[str, ServedModel], name: str) -> ServedModel:
    """The model of that name. Raises `NotFound`."""
    model = models.get(name)
    if model is None:
        shown = name if len(name) <= _SHOWN_NAME_LENGTH else f"{name[:_SHOWN_NAME_LENGTH]}..."
        message = f"The model `{shown}` does not exist. Served here: {', '.join(sorted(models)) or 'none'}."
        raise NotFound(message, param="model", code="model_not_found")
    return model


def models_of(models: Mapping[str, ServedModel], limits: Iterable[Limits]) -> dict[str, ServedModel]:
    """Those that may be asked within these limits. To whoever has them the others are as if they were not there."""
    allowed = [each.models for each in limits if each.models is not None]
    return {name: model for name, model in models.items() if all(name in some for some in allowed)}


def without_template(body: Mapping[str, _T]) -> dict[str, _T]:
    """A request's other fields."""
    return {name: value for name, value in body.items() if name != "template"}


def read_request(body: dict[str, Any], kind: type[_Kind]) -> _Kind:
    """The body as far as the daemon reads it. Raises `InvalidRequest`, also for what engines serve and we do not."""
    if body.get("max_tokens") == 0:
        message = "`max_tokens` must be at least 1: a prompt alone is not answered, be it with `echo` or without."
        raise InvalidRequest(message, param="max_tokens")
    wanted = convert(body, kind)
    if wanted.template is None:
        _need_input(body, kind.INPUT_FIELD)
    if isinstance(wanted, CompletionRequest) and wanted.n_prompts > MAX_PROMPTS:
        message = f"`prompt` has {wanted.n_prompts} prompts; one request may have {MAX_PROMPTS}."
        raise InvalidRequest(message, param="prompt")
    if isinstance(wanted, ChatRequest) and any(map(_has_uuid, wanted.messages)):
        message = "`uuid`: engines would answer with whatever image another has sent under the same name."
        raise InvalidRequest(message, param="messages")
    return wanted


def _need_input(body: Mapping[str, Any], field: str) -> None:
    if field not in body:
        raise InvalidRequest(f"The request has neither `{field}` nor a `template`.", param=field)
    if body[field] == []:
        raise InvalidRequest(f"`{field}` must not be empty.", param=field)


def _has_uuid(message: Mapping[str, Any]) -> bool:
    """Whether it gives a name to a part of its content: engines know such names without regard to who gave them."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    return any(isinstance(part, dict) and part.get("uuid") is not None for part in parts)

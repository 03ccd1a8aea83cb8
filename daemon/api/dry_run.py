"""What would become of a request if it were sent now."""

from collections.abc import Callable, Mapping
from functools import partial
from time import time
from typing import Any, TypeVar

from msgspec.structs import replace

from preble.daemon.api.models import ServedModel, find_model, read_request, without_template
from preble.daemon.errors import InvalidRequest
from preble.daemon.flow.encode import encoded
from preble.daemon.flow.explain import foretell
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sched.types import Decision, RequestSpec
from preble.daemon.tenancy.salts import CacheScope
from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

_Kind = TypeVar("_Kind", ChatRequest, CompletionRequest)
_NOBODY = TenantName("")
"""No tenant is called that."""


class DryRun:
    """Takes a request as far as the decision where to run it, which it only asks for."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        cache_scope: Callable[[TenantName, str | None], CacheScope],
        preview: Callable[[RequestSpec], Decision],
        templates: TemplateDesk,
    ) -> None:
        """`cache_scope` tells whose cached prefixes a tenant's request can find, if it has this salt of its own.

        `preview` decides without placing, and raises the `ApiError` that would end the request.
        """
        self._models = models
        self._cache_scope = cache_scope
        self._preview = preview
        self._templates = templates

    async def __call__(self, request_id: RequestId, tenant: TenantName | None, body: dict[str, Any]) -> Explanation:
        """`body` is that of a chat or of a completion; None as `tenant` is one that was never seen, by itself.

        Raises what the request itself would be refused with.
        """
        spec = await self._spec(request_id, tenant or _NOBODY, body)
        return foretell(self._preview(spec), time())

    async def _spec(self, request_id: RequestId, tenant: TenantName, body: dict[str, Any]) -> RequestSpec:
        if ("messages" in body) == ("prompt" in body):
            message = "The request must have either `messages`, as a chat, or `prompt`, as a completion."
            raise InvalidRequest(message, param="messages")
        if "messages" in body:
            chat, body = await self._salted(tenant, read_request(body, ChatRequest), body)
            encoder = find_model(self._models, chat.model).encoder
            return await encoded(partial(encoder.chat, request_id, tenant, chat, body))
        text, body = await self._salted(tenant, read_request(body, CompletionRequest), body)
        encoder = find_model(self._models, text.model).encoder
        return await encoded(partial(encoder.completion, request_id, tenant, text, body))

    async def _salted(self, tenant: TenantName, wanted: _Kind, body: dict[str, Any]) -> tuple[_Kind, dict[str, Any]]:
        salt = self._cache_scope(tenant, wanted.cache_salt).salt
        if wanted.template is not None:
            model = find_model(self._models, wanted.model).name
            use = await self._templates.use(tenant, model, wanted, body)
            body = {**without_template(body), **use.fields}
            await encoded(partial(self._templates.prove, model, use, body, salt))
            wanted = read_request(body, type(wanted))
        return replace(wanted, cache_salt=salt), {**body, "cache_salt": salt}

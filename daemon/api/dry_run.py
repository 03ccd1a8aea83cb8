"""What would become of a request if it were sent now."""

from collections.abc import Callable, Mapping
from functools import partial
from time import time
from typing import Any

from preble.daemon.api.models import ServedModel, find_model, read_request
from preble.daemon.errors import InvalidRequest
from preble.daemon.flow.encode import encoded
from preble.daemon.flow.explain import foretell
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sched.types import Decision, RequestSpec
from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

_NOBODY = TenantName("")
"""No tenant is called that."""


class DryRun:
    """Takes a request as far as the decision where to run it, which it only asks for."""

    def __init__(self, models: Mapping[str, ServedModel], preview: Callable[[RequestSpec], Decision]) -> None:
        """`preview` decides without placing, and raises the `ApiError` that would end the request."""
        self._models = models
        self._preview = preview

    async def __call__(self, request_id: RequestId, tenant: TenantName | None, body: dict[str, Any]) -> Explanation:
        """`body` is that of a chat or of a completion; None as `tenant` is one that was never seen.

        Raises what the request itself would be refused with.
        """
        spec = await self._spec(request_id, tenant or _NOBODY, body)
        return foretell(self._preview(spec), time())

    async def _spec(self, request_id: RequestId, tenant: TenantName, body: dict[str, Any]) -> RequestSpec:
        if ("messages" in body) == ("prompt" in body):
            message = "The request must have either `messages`, as a chat, or `prompt`, as a completion."
            raise InvalidRequest(message, param="messages")
        if "messages" in body:
            chat = read_request(body, ChatRequest)
            encoder = find_model(self._models, chat.model).encoder
            return await encoded(partial(encoder.chat, request_id, tenant, chat, body))
        text = read_request(body, CompletionRequest)
        encoder = find_model(self._models, text.model).encoder
        return await encoded(partial(encoder.completion, request_id, tenant, text, body))

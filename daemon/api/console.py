"""The operator's routes for the console: the prefix index, decisions, and the end of a request."""

from typing import Annotated, Any

from litestar import Controller, Request, Response, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from preble.daemon.api.admin import Admin
from preble.daemon.api.bodies import convert, read_body, read_object
from preble.daemon.api.changes import DryRun, author_of, planned
from preble.daemon.api.schema import keyed
from preble.daemon.errors import InvalidRequest, NotFound, TooLarge
from preble.daemon.sched.browse import Order
from preble.daemon.tenancy.audit import Change
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.admin import CancelledRequest, Explanation, ExplanationPage
from preble.daemon.wire.live import PrefixPage, PrefixText, WhatIf

AnyRequest = Request[Any, Any, Any]
Limit = Annotated[int, QueryParameter(ge=1, le=200)]
Number = Annotated[int | None, QueryParameter(ge=1, le=2**53)]


class ConsoleController(Controller):
    """`/admin/v1/prefixes`, `decisions`, `what-if` and `cancel`, for operators' keys."""

    path = "/admin/v1"
    tags = ("operators",)

    @get("/prefixes", operation_class=keyed(InvalidRequest, NotFound))
    async def prefixes(
        self,
        request: AnyRequest,
        admin: Admin,
        model: FromQuery[str | None] = None,
        parent: FromQuery[str | None] = None,
        order: FromQuery[Order] = "requests",
        gpu: FromQuery[str | None] = None,
        limit: Limit = 50,
        after: FromQuery[str | None] = None,
    ) -> PrefixPage:
        """What comes behind a prefix of the index, or its beginnings; with a GPU only what that has or was sent."""
        admin.authenticate(request, Scope.ADMIN_READ)
        return admin.console.prefixes(model, parent, order, gpu, limit, after)

    @get("/prefixes/{prefix:str}/text", operation_class=keyed(NotFound))
    async def prefix_text(self, request: AnyRequest, admin: Admin, prefix: FromPath[str]) -> PrefixText:
        """Tell the text of a stretch of the index, where it is kept; the audit says first who has read it.

        It takes a key with `prompts:read`, which no operator's key has unless it was made so.
        """
        author = author_of(request, admin.authenticate(request, Scope.PROMPTS_READ))
        kept = admin.console.kept(prefix)
        read = {"model": kept.model, "tokens": len(kept.tokens)}
        reading = Change(action="prefix.read_text", target=prefix, tenant=kept.tenant, before=None, after=read)
        await admin.accounts.audit.write(author, [reading])
        return await admin.console.text(kept)

    @get("/decisions", operation_class=keyed(InvalidRequest))
    async def decisions(
        self,
        request: AnyRequest,
        admin: Admin,
        tenant: FromQuery[str | None] = None,
        gpu: FromQuery[str | None] = None,
        mode: FromQuery[str | None] = None,
        limit: Limit = 50,
        after: Number = None,
    ) -> ExplanationPage:
        """Why requests went where they went, those that ended last first; and those that come `after` a page."""
        admin.authenticate(request, Scope.ADMIN_READ)
        return await admin.decisions.page(tenant=tenant, gpu=gpu, mode=mode, limit=limit, before=after)

    @post(
        "/explain/{request_id:str}/what-if",
        status_code=200,
        operation_class=keyed(InvalidRequest, NotFound, TooLarge, body=WhatIf),
    )
    async def what_if(self, request: AnyRequest, admin: Admin, request_id: FromPath[str]) -> Explanation:
        """What the policy would have decided about a request without some GPUs, on what it knew then."""
        admin.authenticate(request, Scope.ADMIN_READ)
        question = convert(read_object(await read_body(request)), WhatIf)
        known = await admin.decisions.find(request_id)
        if known is None:
            raise NotFound(f"There is no decision for request {request_id!r}: unknown, running still, or too old.")
        return admin.console.suppose(known, question.without)

    @post("/requests/{request_id:str}/cancel", status_code=200, operation_class=keyed(InvalidRequest, NotFound))
    async def cancel(
        self, request: AnyRequest, admin: Admin, request_id: FromPath[str], dry_run: DryRun = False
    ) -> Response[CancelledRequest | PlannedChange]:
        """End a request that waits or runs; its client is told that an operator has done so."""
        author = author_of(request, admin.authenticate(request, Scope.ADMIN_WRITE))
        before = admin.console.request(request_id)
        after = {**before, "state": "cancelled"}
        change = Change(action="request.cancel", target=request_id, tenant=before["tenant"], before=before, after=after)
        if dry_run:
            effect = [f"{request_id} of {before['tenant']} ends; its client gets an error that says so."]
            return Response(planned(change, effect))
        await admin.accounts.audit.write(author, [change])
        admin.console.cancel(request_id)
        return Response(CancelledRequest(request_id=request_id))

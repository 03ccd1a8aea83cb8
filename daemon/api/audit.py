"""The operator's route for the audit."""

from datetime import datetime
from typing import Annotated, Any

from litestar import Controller, Request, get
from litestar.params import FromQuery, QueryParameter

from preble.daemon.api.admin import Admin, Limit, seconds
from preble.daemon.api.schema import keyed
from preble.daemon.errors import InvalidRequest
from preble.daemon.store.audit import AuditFilter
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.accounts import AuditPage

AnyRequest = Request[Any, Any, Any]
Number = Annotated[int | None, QueryParameter(ge=1, le=2**53)]


class AuditController(Controller):
    """`/admin/v1/audit`, for operators' keys."""

    path = "/admin/v1/audit"
    tags = ("operators",)

    @get(operation_class=keyed(InvalidRequest))
    async def list_changes(
        self,
        request: AnyRequest,
        admin: Admin,
        tenant: FromQuery[str | None] = None,
        request_id: FromQuery[str | None] = None,
        since: FromQuery[datetime | None] = None,
        limit: Limit = 100,
        after: Number = None,
    ) -> AuditPage:
        """Administrative changes, newest first; those that come `after` the number of one, and so are older."""
        admin.authenticate(request, Scope.ADMIN_READ)
        which = AuditFilter(tenant=tenant, request_id=request_id, since_s=seconds(since), before_number=after)
        rows = await admin.accounts.audit.rows(which, limit + 1)
        return AuditPage(rows=rows[:limit], next=rows[limit - 1].number if len(rows) > limit else None)

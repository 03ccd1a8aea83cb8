"""The routes of the ledger: an operator's, and a tenant's own."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, get
from litestar.params import FromQuery, QueryParameter
from msgspec.structs import replace

from preble.daemon.api.admin import Admin, Limit, Offset, seconds
from preble.daemon.api.schema import keyed
from preble.daemon.errors import InvalidRequest, NotFound
from preble.daemon.ids import KeyId
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.usage_query import By, UsageFilter
from preble.daemon.tenancy.ledger import UsageRecord
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.admin import UsagePage, UsageRow
from preble.daemon.wire.moments import iso
from preble.daemon.wire.usage_csv import rows_csv, totals_csv

AnyRequest = Request[Any, Any, Any]
Format = Literal["json", "csv"]
Key = Annotated[str | None, QueryParameter(name="key")]
_CSV = "text/csv"
_JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What part of what matches, and how."""

    by: By | None
    limit: int
    offset: int


class OperatorsUsageController(Controller):
    """`/admin/v1/usage`, for operators' keys."""

    path = "/admin/v1/usage"
    tags = ("operators",)

    @get(operation_class=keyed(InvalidRequest, NotFound, csv=True))
    async def usage(
        self,
        request: AnyRequest,
        admin: Admin,
        tenant: FromQuery[str | None] = None,
        key_id: Key = None,
        model: FromQuery[str | None] = None,
        since: FromQuery[datetime | None] = None,
        until: FromQuery[datetime | None] = None,
        by: FromQuery[By | None] = None,
        limit: Limit = 100,
        offset: Offset = 0,
        format: FromQuery[Format | None] = None,
    ) -> Response[UsagePage]:
        """The ledger: requests that came `since` a time and before `until` another, newest first, and their totals.

        `by` asks for totals alone: of each tenant, key or model, or of each hour, day or month (UTC), newest first.
        As CSV it is the requests, or the totals if they are asked for.
        """
        admin.authenticate(request, Scope.ADMIN_READ)
        since_s, until_s = _span(since, until)
        which = UsageFilter(tenant=tenant, key_id=key_id, model=model, since_s=since_s, until_s=until_s)
        page = await _page(admin.ledger, which, _Wanted(by=by, limit=limit, offset=offset))
        if not page.totals:  # a mistyped name is not somebody who used nothing
            if tenant is not None:
                admin.accounts.directory.tenant(tenant)
            if key_id is not None and admin.accounts.directory.key(KeyId(key_id)) is None:
                raise NotFound(f"There is no key {key_id!r}.", param="key")
        return _answer(request, page, by, format)


class TenantsUsageController(Controller):
    """`/v1/usage`: what a tenant may know of itself."""

    path = "/v1/usage"
    tags = ("tenants",)

    @get(operation_class=keyed(InvalidRequest, csv=True))
    async def usage(
        self,
        request: AnyRequest,
        admin: Admin,
        key_id: Key = None,
        model: FromQuery[str | None] = None,
        since: FromQuery[datetime | None] = None,
        until: FromQuery[datetime | None] = None,
        by: FromQuery[By | None] = None,
        limit: Limit = 100,
        offset: Offset = 0,
        format: FromQuery[Format | None] = None,
    ) -> Response[UsagePage]:
        """The caller's own requests, newest first, and their totals; everybody's for an operator.

        `by` asks for totals alone: of each key or model, or of each hour, day or month (UTC), newest first.

        A tenant that shares its prefixes with others is not told what of its prompts was cached, nor what follows from
        that: it would tell what the others have asked.
        """
        principal = admin.authenticate(request, Scope.USAGE_READ)
        since_s, until_s = _span(since, until)
        which = UsageFilter(
            tenant=principal.tenant,
            key_id=key_id,
            model=model,
            since_s=since_s,
            until_s=until_s,
            since_creation=principal.tenant is not None,
        )
        page = await _page(admin.ledger, which, _Wanted(by=by, limit=limit, offset=offset))
        tenant = None if principal.tenant is None else admin.accounts.directory.find(principal.tenant)
        shares = tenant is not None and tenant.settings.shares_prefixes
        return _answer(request, _without_cache(page) if shares else page, by, format)


def _span(since: datetime | None, until: datetime | None) -> tuple[float | None, float | None]:
    since_s, until_s = seconds(since), seconds(until)
    if since_s is not None and until_s is not None and until_s < since_s:
        raise InvalidRequest("`until` is before `since`.", param="until")
    return since_s, until_s


async def _page(ledger: Ledger, which: UsageFilter, wanted: _Wanted) -> UsagePage:
    """One more than the page holds is looked for, so that it is known whether another follows."""
    start, end = wanted.offset, wanted.offset + wanted.limit
    if wanted.by is not None:
        found = await ledger.totals(which, wanted.by)
        return UsagePage(rows=[], totals=found[start:end], next=end if len(found) > end else None)
    records = await ledger.rows(which, limit=wanted.limit + 1, offset=start)
    return UsagePage(
        rows=[_row(record) for record in records[: wanted.limit]],
        totals=await ledger.totals(which),
        next=end if len(records) > wanted.limit else None,
    )


def _answer(request: AnyRequest, page: UsagePage, by: By | None, wanted: Format | None) -> Response[UsagePage]:
    """As the query says, or else as the client accepts."""
    if wanted is None:
        wanted = "csv" if request.accept.best_match([_JSON, _CSV], default=_JSON) == _CSV else "json"
    if wanted == "json":
        return Response(page)
    answer: Response[Any] = Response(rows_csv(page) if by is None else totals_csv(page), media_type=_CSV)
    return answer


def _without_cache(page: UsagePage) -> UsagePage:
    """What a cost tells is left: such requests are charged as if nothing had been cached."""
    rows = [
        replace(
            row,
            gpu=None,
            mode=None,
            cached_tokens=None,
            predicted_cached_tokens=None,
            queue_ms=None,
            gpu_ms=None,
            saved_ms=None,
        )
        for row in page.rows
    ]
    totals = [replace(each, cached_tokens=None, gpu_ms=None) for each in page.totals]
    return replace(page, rows=rows, totals=totals)


def _row(record: UsageRecord) -> UsageRow:
    return UsageRow(
        request_id=record.request_id,
        tenant=record.tenant,
        key_id=record.key_id,
        model=record.model,
        endpoint=record.endpoint,
        gpu=record.gpu,
        mode=record.mode,
        status=record.status,
        http_status=record.http_status,
        created_at=iso(record.created_at_s),
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        predicted_cached_tokens=record.predicted_cached_tokens,
        output_tokens=record.output_tokens,
        attempts=record.attempts,
        queue_ms=record.queue_ms,
        ttft_ms=record.ttft_ms,
        latency_ms=record.latency_ms,
        gpu_ms=record.gpu_ms,
        cost=None if record.cost_micros is None else record.cost_micros / 1_000_000,
        template=record.template,
        template_version=record.template_version,
        saved_ms=record.saved_ms,
    )

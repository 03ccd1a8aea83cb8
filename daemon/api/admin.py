"""The operator's routes: tenants, keys, usage, engines, and why a request went where it went."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import Annotated, Any, Protocol

from litestar import Controller, Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter

from preble.daemon.api.bodies import convert, read_body, read_object
from preble.daemon.api.dry_run import DryRun
from preble.daemon.api.request_ids import request_id as id_of
from preble.daemon.api.schema import keyed
from preble.daemon.errors import Conflict, EngineFailed, InvalidRequest, NotFound, TooLarge, Unavailable
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.decisions import DecisionLog
from preble.daemon.store.ledger import Ledger, UsageFilter
from preble.daemon.tenancy.ledger import UsageRecord
from preble.daemon.tenancy.model import ApiKey, Principal, Scope, Tenant, is_tenant_name
from preble.daemon.wire.admin import (
    Explanation,
    GpuRow,
    KeyCreate,
    KeyCreated,
    KeyRow,
    TenantCreate,
    TenantRow,
    UsagePage,
    UsageRow,
    UsageTotals,
)
from preble.daemon.wire.openai import ChatRequest, CompletionRequest

AnyRequest = Request[Any, Any, Any]
Limit = Annotated[int, QueryParameter(ge=1, le=1000)]
Offset = Annotated[int, QueryParameter(ge=0, le=10**12)]

_DAY_S = 86_400


class GpuOperations(Protocol):
    """What can be done with engines. Every method raises `NotFound` for an unknown GPU."""

    def rows(self) -> list[GpuRow]:
        """All engines."""

    async def drain(self, gpu: str) -> None:
        """Place nothing new there."""

    async def undrain(self, gpu: str) -> None:
        """Put it back to work."""

    async def restart(self, gpu: str) -> None:
        """Drain it, end it and start it again."""


@dataclass(frozen=True, slots=True)
class AdminService:
    """What the routes below need, put together by the composition root."""

    authenticate: Callable[[AnyRequest, Scope], Principal]
    accounts: Accounts
    ledger: Ledger
    decisions: DecisionLog
    gpus: GpuOperations
    dry_run: DryRun


Admin = NamedDependency[AdminService]


class AdminController(Controller):
    """`/admin/v1/...`, for operators' keys."""

    path = "/admin/v1"
    tags = ("operators",)

    @get("/tenants", operation_class=keyed())
    async def list_tenants(self, request: AnyRequest, admin: Admin) -> list[TenantRow]:
        """Every tenant, with what it has used."""
        admin.authenticate(request, Scope.ADMIN_READ)
        totals = {row.tenant: row for row in await admin.ledger.totals(UsageFilter())}
        return [_tenant_row(admin, tenant, totals.get(tenant.name)) for tenant in admin.accounts.tenants()]

    @post(
        "/tenants",
        status_code=201,
        operation_class=keyed(InvalidRequest, Conflict, TooLarge, body=TenantCreate),
    )
    async def create_tenant(self, request: AnyRequest, admin: Admin) -> TenantRow:
        """Make a tenant."""
        admin.authenticate(request, Scope.ADMIN_WRITE)
        wanted = convert(read_object(await read_body(request)), TenantCreate)
        if not is_tenant_name(wanted.name):
            message = "A tenant's name has up to 63 lower-case letters, digits and dashes, and begins with no dash."
            raise InvalidRequest(message, param="name")
        return _tenant_row(admin, await admin.accounts.create_tenant(wanted.name, time()), None)

    @get("/tenants/{name:str}", operation_class=keyed(NotFound))
    async def show_tenant(self, request: AnyRequest, admin: Admin, name: FromPath[str]) -> TenantRow:
        """One tenant."""
        admin.authenticate(request, Scope.ADMIN_READ)
        tenant = admin.accounts.tenant(name)
        totals = await admin.ledger.totals(UsageFilter(tenant=name))
        return _tenant_row(admin, tenant, totals[0] if totals else None)

    @get("/keys", operation_class=keyed(NotFound))
    async def list_keys(self, request: AnyRequest, admin: Admin, tenant: FromQuery[str | None] = None) -> list[KeyRow]:
        """Keys, without their secrets."""
        admin.authenticate(request, Scope.ADMIN_READ)
        return [_key_row(key) for key in admin.accounts.keys(tenant)]

    @post(
        "/keys",
        status_code=201,
        operation_class=keyed(InvalidRequest, NotFound, TooLarge, body=KeyCreate),
    )
    async def create_key(self, request: AnyRequest, admin: Admin) -> KeyCreated:
        """Make a key for a tenant. Its text is in this answer and nowhere else."""
        admin.authenticate(request, Scope.ADMIN_WRITE)
        wanted = convert(read_object(await read_body(request)), KeyCreate)
        if not wanted.name.isprintable():
            raise InvalidRequest("A key's name has no control characters.", param="name")
        now_s = time()
        expires_at_s = None if wanted.expires_in_days is None else now_s + wanted.expires_in_days * _DAY_S
        made = await admin.accounts.create_key(wanted.tenant, name=wanted.name, now_s=now_s, expires_at_s=expires_at_s)
        return KeyCreated(key=made.text, id=made.id, tenant=wanted.tenant)

    @post("/keys/{key_id:str}/revoke", status_code=200, operation_class=keyed(NotFound))
    async def revoke_key(self, request: AnyRequest, admin: Admin, key_id: FromPath[str]) -> KeyRow:
        """Make a key useless, from the next request on."""
        admin.authenticate(request, Scope.ADMIN_WRITE)
        return _key_row(await admin.accounts.revoke_key(key_id, time()))

    @get("/usage", operation_class=keyed(InvalidRequest, NotFound))
    async def usage(
        self,
        request: AnyRequest,
        admin: Admin,
        tenant: FromQuery[str | None] = None,
        since: FromQuery[datetime | None] = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> UsagePage:
        """The ledger, newest first."""
        admin.authenticate(request, Scope.ADMIN_READ)
        page = await _usage_page(admin.ledger, tenant, since, limit, offset)
        if tenant is not None and not page.totals:
            admin.accounts.tenant(tenant)  # a mistyped name is not somebody who used nothing
        return page

    @get("/gpus", operation_class=keyed())
    async def list_gpus(self, request: AnyRequest, admin: Admin) -> list[GpuRow]:
        """Every engine."""
        admin.authenticate(request, Scope.ADMIN_READ)
        return admin.gpus.rows()

    @post("/gpus/{gpu:str}/drain", status_code=200, operation_class=keyed(NotFound))
    async def drain(self, request: AnyRequest, admin: Admin, gpu: FromPath[str]) -> GpuRow:
        """Place nothing new on a GPU."""
        admin.authenticate(request, Scope.ADMIN_WRITE)
        await admin.gpus.drain(gpu)
        return _gpu_row(admin.gpus, gpu)

    @post("/gpus/{gpu:str}/undrain", status_code=200, operation_class=keyed(NotFound))
    async def undrain(self, request: AnyRequest, admin: Admin, gpu: FromPath[str]) -> GpuRow:
        """Put a GPU back to work."""
        admin.authenticate(request, Scope.ADMIN_WRITE)
        await admin.gpus.undrain(gpu)
        return _gpu_row(admin.gpus, gpu)

    @post("/gpus/{gpu:str}/restart", status_code=200, operation_class=keyed(NotFound, Conflict))
    async def restart(self, request: AnyRequest, admin: Admin, gpu: FromPath[str]) -> GpuRow:
        """Let a GPU's requests finish, then start its engine again; answers when that has begun."""
        admin.authenticate(request, Scope.ADMIN_WRITE)
        await admin.gpus.restart(gpu)
        return _gpu_row(admin.gpus, gpu)

    @get("/explain/{request_id:str}", operation_class=keyed(NotFound))
    async def explain(self, request: AnyRequest, admin: Admin, request_id: FromPath[str]) -> Explanation:
        """Why a request went where it went, and what then happened."""
        admin.authenticate(request, Scope.ADMIN_READ)
        explanation = await admin.decisions.find(request_id)
        if explanation is None:
            raise NotFound(f"There is no decision for request {request_id!r}: unknown, running still, or too old.")
        return explanation

    @post(
        "/explain",
        status_code=200,
        operation_class=keyed(
            InvalidRequest, NotFound, TooLarge, EngineFailed, Unavailable, body=ChatRequest | CompletionRequest
        ),
    )
    async def dry_run(self, request: AnyRequest, admin: Admin, tenant: FromQuery[str | None] = None) -> Explanation:
        """Where a chat or a completion would go now, and why. It is not run, and changes nothing.

        How long its answer is expected to be depends on whose it is.
        """
        admin.authenticate(request, Scope.ADMIN_READ)
        whose = admin.accounts.tenant(tenant).name if tenant is not None else None
        return await admin.dry_run(id_of(request.scope), whose, read_object(await read_body(request)))


class TenantController(Controller):
    """What a tenant may know of itself."""

    path = "/v1"
    tags = ("tenants",)

    @get("/usage", operation_class=keyed(InvalidRequest))
    async def usage(
        self,
        request: AnyRequest,
        admin: Admin,
        since: FromQuery[datetime | None] = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> UsagePage:
        """The caller's own requests, newest first; everybody's for an operator."""
        principal = admin.authenticate(request, Scope.USAGE_READ)
        return await _usage_page(admin.ledger, principal.tenant, since, limit, offset)


async def _usage_page(ledger: Ledger, tenant: str | None, since: datetime | None, limit: int, offset: int) -> UsagePage:
    since_s = None
    if since is not None:
        since_s = (since if since.tzinfo else since.replace(tzinfo=UTC)).timestamp()
    which = UsageFilter(tenant=tenant, since_s=since_s)
    records = await ledger.rows(which, limit=limit, offset=offset)
    return UsagePage(rows=[_usage_row(record) for record in records], totals=await ledger.totals(which))


def _gpu_row(gpus: GpuOperations, gpu: str) -> GpuRow:
    return next(row for row in gpus.rows() if row.gpu == gpu)


def _tenant_row(admin: AdminService, tenant: Tenant, totals: UsageTotals | None) -> TenantRow:
    now_s = time()
    return TenantRow(
        name=tenant.name,
        created_at=_iso(tenant.created_at_s),
        keys=sum(key.is_valid(now_s) for key in admin.accounts.keys(tenant.name)),
        requests=totals.requests if totals else 0,
        prompt_tokens=totals.prompt_tokens if totals else 0,
        cached_tokens=totals.cached_tokens if totals else 0,
        output_tokens=totals.output_tokens if totals else 0,
    )


def _key_row(key: ApiKey) -> KeyRow:
    return KeyRow(
        id=key.id,
        tenant=key.tenant,
        name=key.name,
        last4=key.last4,
        scopes=sorted(key.scopes),
        created_at=_iso(key.created_at_s),
        expires_at=_iso(key.expires_at_s) if key.expires_at_s is not None else None,
        revoked_at=_iso(key.revoked_at_s) if key.revoked_at_s is not None else None,
    )


def _usage_row(record: UsageRecord) -> UsageRow:
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
        created_at=_iso(record.created_at_s),
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        predicted_cached_tokens=record.predicted_cached_tokens,
        output_tokens=record.output_tokens,
        attempts=record.attempts,
        queue_ms=record.queue_ms,
        ttft_ms=record.ttft_ms,
        latency_ms=record.latency_ms,
    )


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")

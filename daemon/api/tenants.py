"""The operator's routes for tenants."""

from collections.abc import Mapping
from time import time
from typing import Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery

from preble.daemon.api.admin import Admin, AdminService, Limit
from preble.daemon.api.bodies import convert, merged, read_body, read_object
from preble.daemon.api.changes import DryRun, IfMatch, answer, author_of, etag, versions
from preble.daemon.api.schema import keyed
from preble.daemon.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed, TooLarge
from preble.daemon.store.usage_query import UsageFilter
from preble.daemon.tenancy.model import Scope, Tenant
from preble.daemon.wire.accounts import PlannedChange, TenantCreate, TenantPage, TenantRow
from preble.daemon.wire.admin import UsageTotals
from preble.daemon.wire.moments import iso
from preble.daemon.wire.settings import TenantSettings

AnyRequest = Request[Any, Any, Any]
_ANSWERS: Any = TenantRow | PlannedChange
_THERE = {200: ResponseSpec(_ANSWERS, generate_examples=False, description="There already; or, a dry run")}


class TenantsController(Controller):
    """`/admin/v1/tenants...`, for operators' keys."""

    path = "/admin/v1/tenants"
    tags = ("operators",)

    @get(operation_class=keyed(InvalidRequest))
    async def list_tenants(
        self, request: AnyRequest, admin: Admin, limit: Limit = 100, after: FromQuery[str | None] = None
    ) -> TenantPage:
        """Tenants by name, with what they have used; those that come `after` a name."""
        admin.authenticate(request, Scope.ADMIN_READ)
        left = [tenant for tenant in admin.accounts.directory.tenants() if after is None or tenant.name > after]
        totals = await _totals(admin)
        rows = [_row(admin, tenant, totals) for tenant in left[:limit]]
        return TenantPage(rows=rows, next=rows[-1].name if len(left) > limit else None)

    @post(
        status_code=201,
        responses=_THERE,
        operation_class=keyed(InvalidRequest, Conflict, TooLarge, body=TenantCreate, tagged=True),
    )
    async def create_tenant(self, request: AnyRequest, admin: Admin, dry_run: DryRun = False) -> Response[TenantRow]:
        """Make a tenant. One of the same name and settings that is there already is answered with 200."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        wanted = convert(read_object(await read_body(request)), TenantCreate)
        settings = convert({name: getattr(wanted, name) for name in TenantSettings.__struct_fields__}, TenantSettings)
        author = author_of(request, principal)
        made = await admin.accounts.tenants.create(wanted.name, settings, author, dry_run=dry_run)
        row = _row(admin, made.value, await _totals(admin, wanted.name))
        status = 201 if made.is_new else 200
        return answer(made, lambda _: row, dry_run=dry_run, version=made.value.version, status=status)

    @get("/{name:str}", operation_class=keyed(NotFound, tagged=True))
    async def show_tenant(self, request: AnyRequest, admin: Admin, name: FromPath[str]) -> Response[TenantRow]:
        """One tenant."""
        admin.authenticate(request, Scope.ADMIN_READ)
        tenant = admin.accounts.directory.tenant(name)
        row = _row(admin, tenant, await _totals(admin, name))
        return Response(row, headers={"etag": etag(tenant.version)})

    @patch(
        "/{name:str}",
        operation_class=keyed(InvalidRequest, NotFound, PreconditionFailed, TooLarge, body=TenantSettings, tagged=True),
    )
    async def update_tenant(
        self,
        request: AnyRequest,
        admin: Admin,
        name: FromPath[str],
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response[TenantRow | PlannedChange]:
        """Change settings from the next request on. What is not named stays; a limit of null is lifted."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        changes = read_object(await read_body(request))
        done = await admin.accounts.tenants.update(
            name,
            lambda settings: merged(settings, changes, TenantSettings),
            author_of(request, principal),
            if_version=versions(if_match),
            dry_run=dry_run,
        )
        row = _row(admin, done.value, await _totals(admin, name))
        return answer(done, lambda _: row, dry_run=dry_run, version=done.value.version)

    @post("/{name:str}/rotate-salt", status_code=200, operation_class=keyed(InvalidRequest, NotFound, tagged=True))
    async def rotate_salt(
        self, request: AnyRequest, admin: Admin, name: FromPath[str], dry_run: DryRun = False
    ) -> Response[TenantRow | PlannedChange]:
        """Give up all prefixes that are cached for a tenant: none of its requests finds them any more."""
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        done = await admin.accounts.tenants.rotate_salt(name, author_of(request, principal), dry_run=dry_run)
        row = _row(admin, done.value, await _totals(admin, name))
        return answer(done, lambda _: row, dry_run=dry_run, version=done.value.version)

    @delete(
        "/{name:str}",
        status_code=200,
        operation_class=keyed(InvalidRequest, NotFound, Conflict, PreconditionFailed),
    )
    async def delete_tenant(
        self,
        request: AnyRequest,
        admin: Admin,
        name: FromPath[str],
        revoke_keys: FromQuery[bool] = False,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response[TenantRow | PlannedChange]:
        """Delete a tenant, and answer with what it was. Refused while it has keys that work, unless `revoke_keys`.

        What it has used stays in the ledger, and what was changed in the audit. Its name can be given again.
        """
        principal = admin.authenticate(request, Scope.ADMIN_WRITE)
        row = _row(admin, admin.accounts.directory.tenant(name), await _totals(admin, name))
        done = await admin.accounts.tenants.delete(
            name,
            author_of(request, principal),
            revoke_keys=revoke_keys,
            if_version=versions(if_match),
            dry_run=dry_run,
        )
        return answer(done, lambda _: row, dry_run=dry_run, version=None)


async def _totals(admin: AdminService, tenant: str | None = None) -> Mapping[str, UsageTotals]:
    """What each tenant has used since it was created."""
    which = UsageFilter(tenant=tenant, since_creation=True)
    return {row.tenant: row for row in await admin.ledger.totals(which) if row.tenant is not None}


def _row(admin: AdminService, tenant: Tenant, totals: Mapping[str, UsageTotals]) -> TenantRow:
    now_s, used, settings = time(), totals.get(tenant.name), tenant.settings
    return TenantRow(
        name=tenant.name,
        created_at=iso(tenant.created_at_s),
        version=tenant.version,
        weight=settings.weight,
        priority=settings.priority,
        isolation=settings.isolation,
        suspended=settings.suspended,
        salt_epoch=tenant.salt_epoch,
        limits=settings.limits,
        keys=sum(key.is_valid(now_s) for key in admin.accounts.directory.keys_of(tenant.name)),
        requests=used.requests if used else 0,
        prompt_tokens=used.prompt_tokens if used else 0,
        cached_tokens=(used.cached_tokens if used else None) or 0,
        output_tokens=used.output_tokens if used else 0,
    )

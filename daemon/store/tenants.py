"""Changes of tenants: in the database, the audit and the directory, in this order, one at a time."""

from asyncio import Lock
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Executable, insert, update

from preble.daemon.errors import Conflict, InvalidRequest, PreconditionFailed
from preble.daemon.ids import TenantName
from preble.daemon.store.audit import AuditLog, shown_key, shown_tenant
from preble.daemon.store.tables import api_keys, tenants
from preble.daemon.tenancy.audit import Author, Change, Outcome
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.model import ApiKey, Tenant, is_tenant_name
from preble.daemon.wire.settings import Limits, TenantSettings, is_isolation


class TenantStore:
    """Makes, changes and deletes tenants. With `dry_run` everything is checked and nothing is changed."""

    def __init__(self, audit: AuditLog, directory: Directory, lock: Lock) -> None:
        self._audit = audit
        self._directory = directory
        self._lock = lock

    async def create(
        self, name: str, settings: TenantSettings, author: Author, *, dry_run: bool = False
    ) -> Outcome[Tenant]:
        """Make one; one of these settings that is there already is as good. Raises `InvalidRequest`, `Conflict`."""
        if not is_tenant_name(name):
            message = "A tenant's name has up to 63 lower-case letters, digits and dashes, and begins with no dash."
            raise InvalidRequest(message, param="name")
        _check(settings)
        async with self._lock:
            known = self._directory.remembered(TenantName(name))
            if known is not None and known.deleted_at_s is None:
                if known.settings != settings:
                    raise Conflict(f"There is a tenant {name!r} already, with other settings.", param="name")
                return _same(known)
            tenant = Tenant(
                name=TenantName(name),
                settings=settings,
                salt_epoch=known.salt_epoch + 1 if known else 0,
                version=known.version + 1 if known else 1,
                created_at_s=author.at_s,
            )
            change = _change("create", tenant, None, shown_tenant(tenant))
            statement = update(tenants).where(tenants.c.name == name) if known else insert(tenants)
            if not dry_run:
                await self._audit.write(author, [change], statement.values(_row(tenant)))
                self._directory.put_tenant(tenant)
            return Outcome(tenant, change)

    async def update(
        self,
        name: str,
        revise: Callable[[TenantSettings], TenantSettings],
        author: Author,
        *,
        if_version: Container[int] | None = None,
        dry_run: bool = False,
    ) -> Outcome[Tenant]:
        """Change settings. Raises `NotFound`, `InvalidRequest`, and `PreconditionFailed` if it has another version."""
        async with self._lock:
            before = self._directory.tenant(name)
            check_version(before.version, if_version)
            settings = revise(before.settings)
            _check(settings)
            if settings == before.settings:
                return _same(before)
            return await self._replace(before, replace(before, settings=settings), "update", author, dry_run)

    async def rotate_salt(self, name: str, author: Author, *, dry_run: bool = False) -> Outcome[Tenant]:
        """Give up the prefixes that are cached for it. Raises `NotFound`."""
        async with self._lock:
            before = self._directory.tenant(name)
            after = replace(before, salt_epoch=before.salt_epoch + 1)
            return await self._replace(before, after, "rotate_salt", author, dry_run)

    async def delete(
        self,
        name: str,
        author: Author,
        *,
        revoke_keys: bool = False,
        if_version: Container[int] | None = None,
        dry_run: bool = False,
    ) -> Outcome[Tenant]:
        """Have it no more. Raises `NotFound`, `PreconditionFailed`, and `Conflict` while it has keys that work.

        Its usage and the audit stay. With `revoke_keys` its keys are revoked first.
        """
        async with self._lock:
            before = self._directory.tenant(name)
            check_version(before.version, if_version)
            keys = [key for key in self._directory.find_keys(name) if key.revoked_at_s is None]
            working = sum(key.is_valid(author.at_s) for key in keys)
            if working and not revoke_keys:
                raise Conflict(
                    f"Tenant {name!r} has {working} working keys: revoke them, or ask with revoke_keys=true."
                )
            after = replace(before, deleted_at_s=author.at_s, version=before.version + 1)
            revoked = [replace(key, revoked_at_s=author.at_s, version=key.version + 1) for key in keys]
            change = _change("delete", before, shown_tenant(before), None)
            if not dry_run:
                changes = [*(_revocation(*each) for each in zip(keys, revoked, strict=True)), change]
                await self._audit.write(author, changes, _update(after), *map(_revoke, revoked))
                self._directory.put_tenant(after)
                for key in revoked:
                    self._directory.put_key(key)
            return Outcome(before, change)

    async def _replace(
        self, before: Tenant, after: Tenant, action: str, author: Author, dry_run: bool
    ) -> Outcome[Tenant]:
        after = replace(after, version=before.version + 1)
        change = _change(action, after, shown_tenant(before), shown_tenant(after))
        if not dry_run:
            await self._audit.write(author, [change], _update(after))
            self._directory.put_tenant(after)
        return Outcome(after, change)


def check_version(version: int, wanted: Container[int] | None) -> None:
    """Raise `PreconditionFailed` unless this is a version that was asked for; None asks for any."""
    if wanted is not None and version not in wanted:
        raise PreconditionFailed(f"It has been changed meanwhile: this is version {version}.")


def read_tenant(row: Mapping[Any, Any]) -> Tenant:
    """A tenant as it is in the database."""
    return Tenant(
        name=TenantName(row["name"]),
        settings=TenantSettings(
            weight=row["weight"],
            priority=row["priority"],
            isolation=row["isolation"],
            suspended=row["suspended"],
            limits=msgspec.convert(row["limits"], Limits),
        ),
        salt_epoch=row["salt_epoch"],
        version=row["version"],
        created_at_s=row["created_at_s"],
        deleted_at_s=row["deleted_at_s"],
    )


def _row(tenant: Tenant) -> dict[str, Any]:
    return {
        **shown_tenant(tenant),
        "name": tenant.name,
        "version": tenant.version,
        "created_at_s": tenant.created_at_s,
        "deleted_at_s": tenant.deleted_at_s,
    }


def _check(settings: TenantSettings) -> None:
    if not is_isolation(settings.isolation):
        message = "`isolation` is private, shared, or group:NAME, with a name such as tenants have."
        raise InvalidRequest(message, param="isolation")


def _same(tenant: Tenant) -> Outcome[Tenant]:
    return Outcome(tenant, _change("update", tenant, shown_tenant(tenant), shown_tenant(tenant)))


def _change(action: str, tenant: Tenant, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Change:
    return Change(action=f"tenant.{action}", target=tenant.name, tenant=tenant.name, before=before, after=after)


def _update(tenant: Tenant) -> Executable:
    return update(tenants).where(tenants.c.name == tenant.name).values(_row(tenant))


def _revocation(before: ApiKey, after: ApiKey) -> Change:
    return Change(
        action="key.revoke", target=after.id, tenant=after.tenant, before=shown_key(before), after=shown_key(after)
    )


def _revoke(key: ApiKey) -> Executable:
    values = {"revoked_at_s": key.revoked_at_s, "version": key.version}
    return update(api_keys).where(api_keys.c.id == key.id).values(values)

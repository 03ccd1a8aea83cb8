"""The audit: every administrative change, in the transaction that makes it. Rows are added and never touched."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Executable, false, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.store.tables import audit
from preble.daemon.tenancy.audit import Author, Change
from preble.daemon.tenancy.model import ApiKey, Tenant, is_tenant_name
from preble.daemon.wire.accounts import AuditRow
from preble.daemon.wire.moments import iso, iso_or_none
from preble.daemon.wire.settings import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which changes to look at. None: all."""

    tenant: str | None = None
    request_id: str | None = None
    """Of the request that made them."""
    since_s: float | None = None
    """Seconds since the epoch; earlier ones do not count."""
    before_number: int | None = None
    """Only those that came before this one."""

    def clauses(self) -> list[ColumnElement[bool]]:
        """The same in SQL."""
        clauses: list[ColumnElement[bool]] = []
        if self.tenant is not None:
            clauses.append(audit.c.tenant == self.tenant if is_tenant_name(self.tenant) else false())
        if self.request_id is not None:
            clauses.append(audit.c.request_id == self.request_id if self.request_id.isprintable() else false())
        if self.since_s is not None:
            clauses.append(audit.c.at_s >= self.since_s)
        if self.before_number is not None:
            clauses.append(audit.c.number < self.before_number)
        return clauses


class AuditLog:
    """Writes changes together with what they are about, and reads them back."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def write(self, author: Author, changes: Sequence[Change], *statements: Executable) -> None:
        """Make the changes, which `statements` do, and record them: all of it or nothing."""
        rows = [
            {**asdict(change), "at_s": author.at_s, "actor": author.name, "request_id": author.request_id}
            for change in changes
        ]
        async with self._engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)
            await connection.execute(insert(audit), rows)

    async def rows(self, which: AuditFilter, limit: int) -> list[AuditRow]:
        """Changes, newest first."""
        query = select(audit).where(*which.clauses()).order_by(audit.c.number.desc()).limit(limit)
        async with self._engine.connect() as connection:
            return [_row(row) for row in (await connection.execute(query)).mappings()]


def shown_tenant(tenant: Tenant) -> dict[str, Any]:
    """A tenant as the audit remembers it."""
    settings = msgspec.structs.asdict(tenant.settings)
    return {**settings, "limits": shown_limits(tenant.settings.limits), "salt_epoch": tenant.salt_epoch}


def shown_key(key: ApiKey) -> dict[str, Any]:
    """A key as the audit remembers it: without its digest, of which nobody has any use."""
    return {
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "limits": shown_limits(key.limits),
        "expires_at": iso_or_none(key.expires_at_s),
        "revoked_at": iso_or_none(key.revoked_at_s),
        "replaced_by": key.replaced_by,
    }


def shown_limits(limits: Limits) -> dict[str, Any]:
    """The limits that there are; also what the database holds."""
    found: dict[str, Any] = msgspec.to_builtins(limits)
    return {name: value for name, value in found.items() if value is not None}


def _row(row: Mapping[Any, Any]) -> AuditRow:
    told = {name: value for name, value in row.items() if name != "at_s"}
    return AuditRow(at=iso(row["at_s"]), **told)

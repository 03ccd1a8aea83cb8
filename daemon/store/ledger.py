"""The usage ledger: one row per request, however it ended."""

from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, delete, false, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.ids import KeyId, TenantName
from preble.daemon.store.batch import BatchWriter
from preble.daemon.store.tables import tenants, usage
from preble.daemon.tenancy.ledger import Status, UsageRecord
from preble.daemon.tenancy.model import is_tenant_name
from preble.daemon.wire.admin import UsageTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which requests to look at. None: all."""

    tenant: str | None = None
    since_s: float | None = None
    """Seconds since the epoch; earlier ones do not count."""
    since_creation: bool = False
    """Leave out what was used before the tenant was created, by another that had its name."""

    def clauses(self) -> list[ColumnElement[bool]]:
        """The same in SQL."""
        clauses: list[ColumnElement[bool]] = []
        if self.tenant is not None:
            clauses.append(usage.c.tenant == self.tenant if is_tenant_name(self.tenant) else false())
        if self.since_s is not None:
            clauses.append(usage.c.created_at_s >= self.since_s)
        if self.since_creation:
            created_at_s = select(tenants.c.created_at_s).where(tenants.c.name == usage.c.tenant).scalar_subquery()
            clauses.append(usage.c.created_at_s >= created_at_s)
        return clauses


class Ledger:
    """Writes usage in batches and reads it back."""

    def __init__(self, engine: AsyncEngine, flush_interval_s: float) -> None:
        self._engine = engine
        self._writer = BatchWriter(engine, usage, flush_interval_s)

    def record(self, record: UsageRecord) -> None:
        """Have a request's usage written soon."""
        self._writer.add(msgspec.structs.asdict(record))

    async def close(self) -> None:
        """Write what waits."""
        await self._writer.close()

    async def rows(self, which: UsageFilter, *, limit: int, offset: int) -> list[UsageRecord]:
        """Requests, newest first."""
        query = select(usage).where(*which.clauses()).order_by(usage.c.created_at_s.desc(), usage.c.request_id)
        async with self._engine.connect() as connection:
            found = await connection.execute(query.limit(limit).offset(offset))
            return [UsageRecord(**{**row, "status": Status(row["status"])}) for row in found.mappings()]

    async def totals(self, which: UsageFilter) -> list[UsageTotals]:
        """What each tenant used, by name."""
        query = (
            select(
                usage.c.tenant,
                func.count().label("requests"),
                _sum("prompt_tokens"),
                _sum("cached_tokens"),
                _sum("output_tokens"),
            )
            .where(*which.clauses())
            .group_by(usage.c.tenant)
            .order_by(usage.c.tenant)
        )
        async with self._engine.connect() as connection:
            return [UsageTotals(**row) for row in (await connection.execute(query)).mappings()]

    async def spent(self, since_s: float) -> list[tuple[TenantName, KeyId, int]]:
        """Tokens that engines had of each tenant's key since then, from when the tenant was created on."""
        query = (
            select(usage.c.tenant, usage.c.key_id, func.sum(usage.c.prompt_tokens + usage.c.output_tokens))
            .where(usage.c.attempts > 0, *UsageFilter(since_s=since_s, since_creation=True).clauses())
            .group_by(usage.c.tenant, usage.c.key_id)
        )
        async with self._engine.connect() as connection:
            return [
                (TenantName(tenant), KeyId(key_id), int(tokens))
                for tenant, key_id, tokens in await connection.execute(query)
            ]

    async def forget_before(self, oldest_s: float) -> int:
        """Delete older rows; how many there were."""
        async with self._engine.begin() as connection:
            return (await connection.execute(delete(usage).where(usage.c.created_at_s < oldest_s))).rowcount


def _sum(column: str) -> ColumnElement[Any]:
    return func.coalesce(func.sum(usage.c[column]), 0).label(column)

"""The usage ledger: one row per request, however it ended, and sums by hour that outlive the rows."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from preble.daemon.ids import KeyId, TenantName
from preble.daemon.store.batch import BatchWriter, Row
from preble.daemon.store.hours import DAY_S, add_to_hours
from preble.daemon.store.tables import usage, usage_hours
from preble.daemon.store.template_hours import add_to_template_hours, forget_template_hours, template_totals
from preble.daemon.store.usage_query import By, UsageFilter, summed, totals
from preble.daemon.templates.totals import TemplateTotals
from preble.daemon.tenancy.ledger import Status, UsageRecord
from preble.daemon.wire.admin import UsageTotals


class Ledger:
    """Writes usage in batches and reads it back."""

    def __init__(self, engine: AsyncEngine, flush_interval_s: float) -> None:
        self._engine = engine
        self._writer = BatchWriter(engine, usage, flush_interval_s, with_new=self._add_to_hours)

    def record(self, record: UsageRecord) -> None:
        """Have a request's usage written soon."""
        self._writer.add(msgspec.structs.asdict(record))

    @property
    def fault(self) -> str | None:
        """Why nothing can be written now; None when it can."""
        return self._writer.fault

    async def close(self) -> None:
        """Write what waits."""
        await self._writer.close()

    async def rows(self, which: UsageFilter, *, limit: int, offset: int) -> list[UsageRecord]:
        """Requests, newest first."""
        query = select(usage).where(*which.rows()).order_by(usage.c.created_at_s.desc(), usage.c.request_id)
        async with self._engine.connect() as connection:
            found = await connection.execute(query.limit(limit).offset(offset))
            return [UsageRecord(**{**row, "status": Status(row["status"])}) for row in found.mappings()]

    async def totals(self, which: UsageFilter, by: By = "tenant") -> list[UsageTotals]:
        """What was used, summed: by name, or by period with the newest first."""
        async with self._engine.connect() as connection:
            found = (await connection.execute(summed(which, by))).mappings().all()
        return totals(found, by)

    async def templates(self, tenant: str | None) -> list[TemplateTotals]:
        """What templates saved one tenant, or each of all (None)."""
        return await template_totals(self._engine, tenant)

    async def spent(self, since_s: float) -> list[tuple[TenantName, KeyId, int]]:
        """Tokens that engines had of each tenant's key since a full hour, from when the tenant was created on."""
        query = (
            select(
                usage_hours.c.tenant,
                usage_hours.c.key_id,
                func.sum(usage_hours.c.prompt_tokens + usage_hours.c.output_tokens).label("tokens"),
            )
            .where(*UsageFilter(since_s=since_s, since_creation=True).hours())
            .group_by(usage_hours.c.tenant, usage_hours.c.key_id)
        )
        async with self._engine.connect() as connection:
            found = [
                (TenantName(tenant), KeyId(key), int(tokens)) for tenant, key, tokens in await connection.execute(query)
            ]
        return [row for row in found if row[2]]

    async def last_used_s(self, tenant: TenantName, key_id: KeyId) -> float | None:
        """When the latest request came with a key, in seconds since the epoch; None: none is on record.

        Of a request whose row is deleted, the hour.
        """
        hours = select(func.max(usage_hours.c.hour_s)).where(*UsageFilter(tenant=tenant, key_id=key_id).hours())
        async with self._engine.connect() as connection:
            hour_s = (await connection.execute(hours)).scalar()
            if hour_s is None:
                return None
            since = UsageFilter(tenant=tenant, key_id=key_id, since_s=float(hour_s)).rows()
            latest_s = (await connection.execute(select(func.max(usage.c.created_at_s)).where(*since))).scalar()
        return float(hour_s) if latest_s is None else float(latest_s)

    async def forget(self, now_s: float, *, rows_days: float, hours_days: float) -> int:
        """Delete requests and sums that are older than so many days; how many requests there were."""
        async with self._engine.begin() as connection:
            await connection.execute(delete(usage_hours).where(usage_hours.c.hour_s < now_s - hours_days * DAY_S))
            await forget_template_hours(connection, now_s - hours_days * DAY_S)
            old = usage.c.created_at_s < now_s - rows_days * DAY_S
            return (await connection.execute(delete(usage).where(old))).rowcount

    async def _add_to_hours(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        await add_to_hours(self._engine, connection, rows)
        await add_to_template_hours(self._engine, connection, rows)

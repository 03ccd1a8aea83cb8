"""How often templates were evicted from GPUs' caches: counted in memory, and written in batches as counts by hour."""

from collections import Counter
from typing import NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.ids import TenantName
from preble.daemon.store.batch import BatchWriter
from preble.daemon.store.hours import DAY_S, hour_of
from preble.daemon.store.tables import template_evictions
from preble.daemon.templates.directory import VersionKey


class Evicted(NamedTuple):
    """Evictions of a version that a tenant was the last to use."""

    version: VersionKey
    tenant: str
    evictions: int


class EvictionLog:
    """Counts, and remembers.

    What is written is how many there were in an hour, not how many more: written again, it changes nothing. What came
    within the last flush interval is lost when the process is killed.
    """

    def __init__(self, engine: AsyncEngine, flush_interval_s: float) -> None:
        self._engine = engine
        self._writer = BatchWriter(engine, template_evictions, flush_interval_s, replaces=True)
        self._hour_s = 0
        self._counts: Counter[tuple[VersionKey, str]] = Counter()
        """Of that hour."""

    @classmethod
    async def load(cls, engine: AsyncEngine, flush_interval_s: float, now_s: float) -> "EvictionLog":
        """One that goes on with what was counted before in this hour, or a later one: the clock may have gone back."""
        log, table = cls(engine, flush_interval_s), template_evictions.c
        query = select(template_evictions).where(table.hour_s >= hour_of(now_s)).order_by(table.hour_s)
        async with engine.connect() as connection:
            for hour_s, template_id, number, tenant, evictions in await connection.execute(query):
                log._begin(hour_s)
                log._counts[(template_id, number), tenant] = evictions
        return log

    def add(self, version: VersionKey, tenant: TenantName, at_s: float) -> None:
        """Count one, and have that written soon. Never blocks. `at_s` is in seconds since the epoch."""
        self._begin(hour_of(at_s))
        self._counts[version, tenant] += 1
        self._writer.add(
            {
                "hour_s": self._hour_s,
                "template_id": version[0],
                "number": version[1],
                "tenant": tenant,
                "evictions": self._counts[version, tenant],
            }
        )

    def _begin(self, hour_s: int) -> None:
        if hour_s > self._hour_s:
            self._hour_s = hour_s
            self._counts.clear()

    @property
    def fault(self) -> str | None:
        """Why nothing can be written now; None when it can."""
        return self._writer.fault

    async def close(self) -> None:
        """Write what waits."""
        await self._writer.close()

    async def totals(self, tenant: str | None) -> list[Evicted]:
        """What was counted for one tenant, or each of all (None)."""
        table = template_evictions.c
        key = (table.template_id, table.number, table.tenant)
        query = select(*key, func.sum(table.evictions)).group_by(*key)
        if tenant is not None:
            query = query.where(table.tenant == tenant)
        async with self._engine.connect() as connection:
            found = await connection.execute(query)
            return [Evicted((template_id, number), name, int(count)) for template_id, number, name, count in found]

    async def forget(self, now_s: float, *, hours_days: float) -> None:
        """Delete counts of hours that are older than so many days."""
        old = template_evictions.c.hour_s < now_s - hours_days * DAY_S
        async with self._engine.begin() as connection:
            await connection.execute(delete(template_evictions).where(old))

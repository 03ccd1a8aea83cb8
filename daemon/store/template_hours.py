"""What templates saved, summed by hour: added to in the transaction that writes the rows of usage."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import case, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from preble.daemon.store.batch import Row
from preble.daemon.store.dialects import insert_or
from preble.daemon.store.hours import hour_of
from preble.daemon.store.tables import template_hours
from preble.daemon.templates.totals import TemplateTotals

_KEY = [column.name for column in template_hours.primary_key]
_SUMS = [column.name for column in template_hours.c if column.name not in (*_KEY, "last_used_s")]


async def add_to_template_hours(engine: AsyncEngine, connection: AsyncConnection, rows: Iterable[Row]) -> None:
    """Count rows of `usage` that were just written. One transaction at a time may do so."""
    sums: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["template_id"] is None:
            continue
        one = _alone(row)
        known = sums.setdefault(tuple(one[name] for name in _KEY), one)
        if known is not one:
            known.update({name: known[name] + one[name] for name in _SUMS})
            known["last_used_s"] = max(known["last_used_s"], one["last_used_s"])
    if not sums:
        return
    insert = insert_or(engine, template_hours)
    added: dict[str, Any] = {name: template_hours.c[name] + insert.excluded[name] for name in _SUMS}
    before, now = template_hours.c.last_used_s, insert.excluded.last_used_s
    added["last_used_s"] = case((now > before, now), else_=before)
    await connection.execute(insert.on_conflict_do_update(index_elements=_KEY, set_=added), list(sums.values()))


async def template_totals(engine: AsyncEngine, tenant: str | None) -> list[TemplateTotals]:
    """By template, version and tenant: for all tenants (None) or one."""
    table = template_hours.c
    key = (table.template_id, table.number, table.tenant)
    sums = [func.sum(table[name]).label(name) for name in _SUMS]
    query = select(*key, *sums, func.max(table.last_used_s).label("last_used_s")).group_by(*key)
    if tenant is not None:
        query = query.where(table.tenant == tenant)
    async with engine.connect() as connection:
        found = (await connection.execute(query)).mappings().all()
    return [_totals({name: int(value) if name in _SUMS else value for name, value in row.items()}) for row in found]


def _totals(row: dict[str, Any]) -> TemplateTotals:
    return TemplateTotals(**row)


async def forget_template_hours(connection: AsyncConnection, before_s: float) -> None:
    """Delete sums of hours that began before."""
    await connection.execute(delete(template_hours).where(template_hours.c.hour_s < before_s))


def _alone(row: Row) -> Row:
    """The sum of one row. Only what an engine told of counts as a hit or a miss."""
    tokens, cached = row["template_tokens"] or 0, row["cached_tokens"]
    is_told = cached is not None and tokens > 0
    found = min(cached or 0, tokens)
    is_hit = is_told and 2 * found > tokens
    ttft_us = None if row["ttft_ms"] is None or not is_told else round(1000 * row["ttft_ms"])
    return {
        "hour_s": hour_of(row["created_at_s"]),
        "template_id": row["template_id"],
        "number": row["template_version"],
        "tenant": row["tenant"],
        "requests": 1,
        "prefix_tokens": tokens if is_told else 0,
        "cached_tokens": found if is_told else 0,
        "saved_us": round(1000 * (row["saved_ms"] or 0.0)),
        "hit_ttfts": int(is_hit and ttft_us is not None),
        "hit_ttft_us": (ttft_us or 0) if is_hit else 0,
        "miss_ttfts": int(not is_hit and ttft_us is not None),
        "miss_ttft_us": 0 if is_hit else ttft_us or 0,
        "last_used_s": row["created_at_s"],
    }

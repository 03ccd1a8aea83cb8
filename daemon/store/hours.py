"""Sums of usage by hour: added to in the transaction that writes the rows, so that they are always their sums."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from preble.daemon.store.batch import Row
from preble.daemon.store.dialects import insert_or
from preble.daemon.store.tables import usage_hours

HOUR_S, DAY_S = 3600, 86_400
_KEY = [column.name for column in usage_hours.primary_key]
_SUMS = [column.name for column in usage_hours.c if column.name not in _KEY]


async def add_to_hours(engine: AsyncEngine, connection: AsyncConnection, rows: Iterable[Row]) -> None:
    """Count rows of `usage` that were just written. One transaction at a time may do so."""
    sums = list(_summed(rows).values())
    if not sums:
        return
    insert = insert_or(engine, usage_hours)
    added: dict[str, Any] = {name: usage_hours.c[name] + insert.excluded[name] for name in _SUMS}
    cost = (added["cost_micros"], usage_hours.c.cost_micros, insert.excluded.cost_micros)
    added["cost_micros"] = func.coalesce(*cost)  # one of them may have none
    await connection.execute(insert.on_conflict_do_update(index_elements=_KEY, set_=added), sums)


def _summed(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    sums: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        one = _alone(row)
        key = tuple(one[name] for name in _KEY)
        sums[key] = _plus(sums[key], one) if key in sums else one
    return sums


def _alone(row: Row) -> Row:
    """The sum of one row."""
    return {
        "hour_s": hour_of(row["created_at_s"]),
        **{name: row[name] for name in ("tenant", "key_id", "model", "prompt_tokens", "output_tokens", "cost_micros")},
        "status": str(row["status"]),
        "requests": 1,
        "cached_tokens": row["cached_tokens"] or 0,
        "gpu_us": _us(row["gpu_ms"]),
        "ttfts": int(row["ttft_ms"] is not None),
        "ttft_us": _us(row["ttft_ms"] or 0.0),
        "latency_us": _us(row["latency_ms"]),
    }


def _plus(one: Row, other: Row) -> Row:
    sums = {name: one[name] + other[name] for name in _SUMS if name != "cost_micros"}
    costs = [each["cost_micros"] for each in (one, other) if each["cost_micros"] is not None]
    return {**one, **sums, "cost_micros": sum(costs) if costs else None}


def hour_of(at_s: float) -> int:
    """When the hour began, in seconds since the epoch."""
    return int(at_s // HOUR_S) * HOUR_S


def _us(ms: float) -> int:
    return round(1000 * ms)

"""Which usage, and what it comes to: from the sums by hour, and from the rows themselves where an hour is cut."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, FromClause, Select, case, cast, exists, false, func, literal, select
from sqlalchemy import union_all as union

from preble.daemon.store.hours import DAY_S, HOUR_S, hour_of
from preble.daemon.store.tables import api_keys, tenants, usage, usage_hours
from preble.daemon.tenancy.ledger import Status
from preble.daemon.tenancy.model import is_tenant_name
from preble.daemon.wire.admin import UsageTotals

By = Literal["tenant", "key", "model", "hour", "day", "month"]
"""What usage can be summed by."""

_FAR_S = 2**52
_GROUPS: dict[str, tuple[str, ...]] = {"tenant": ("tenant",), "key": ("tenant", "key_id"), "model": ("model",)}
_PERIODS_S = {"hour": HOUR_S, "day": DAY_S, "month": DAY_S}
"""Months are put together from days."""
_SUMS = (
    "requests", "prompt_tokens", "cached_tokens", "output_tokens", "gpu_us", "cost_micros", "ttfts", "ttft_us",
    "latency_us",
)  # fmt: skip
Sums = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which requests to look at. None: all. Times are in seconds since the epoch, and those of requests' arrival."""

    tenant: str | None = None
    key_id: str | None = None
    model: str | None = None
    since_s: float | None = None
    """Earlier ones do not count."""
    until_s: float | None = None
    """From then on they do not count."""
    since_creation: bool = False
    """Leave out what was used before the tenant was created, by another that had its name."""

    def rows(self) -> list[ColumnElement[bool]]:
        """The same in SQL, for `usage`."""
        clauses = self._whose(usage, usage.c.created_at_s)
        if self.since_s is not None:
            clauses.append(usage.c.created_at_s >= self.since_s)
        if self.until_s is not None:
            clauses.append(usage.c.created_at_s < self.until_s)
        return clauses

    def hours(self) -> list[ColumnElement[bool]]:
        """Likewise for `usage_hours`; times must be those of full hours."""
        clauses = self._whose(usage_hours, usage_hours.c.hour_s + HOUR_S)
        if self.since_s is not None:
            clauses.append(usage_hours.c.hour_s >= int(self.since_s))
        if self.until_s is not None:
            clauses.append(usage_hours.c.hour_s < int(self.until_s))
        return clauses

    def _whose(self, table: FromClause, end_s: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        """`end_s`: the row is of then or earlier."""
        clauses: list[ColumnElement[bool]] = []
        if self.tenant is not None:
            clauses.append(table.c.tenant == self.tenant if is_tenant_name(self.tenant) else false())
        for column, wanted in ((table.c.key_id, self.key_id), (table.c.model, self.model)):
            if wanted is not None:
                clauses.append(column == wanted if wanted.isprintable() else false())
        if self.since_creation:  # keys are never deleted, and none is handed on to who gets the name
            its_tenant = tenants.c.name == table.c.tenant
            clauses.append(exists().where(its_tenant, tenants.c.created_at_s <= end_s))
            older = api_keys.c.created_at_s < tenants.c.created_at_s
            clauses.append(~exists().where(its_tenant, api_keys.c.id == table.c.key_id, older))
        return clauses


def summed(which: UsageFilter, by: By) -> Select[Any]:
    """The sums of each group: names in order, or the newest period first."""
    parts = union(*_parts(which)).subquery()
    if by in _GROUPS:
        groups: list[ColumnElement[Any]] = [parts.c[name] for name in _GROUPS[by]]
        order = groups
    else:
        start_s = (parts.c.hour_s // _PERIODS_S[by] * _PERIODS_S[by]).label("start_s")
        groups, order = [start_s], [start_s.desc()]
    by_status = [
        func.sum(case((parts.c.status == status.value, parts.c.requests), else_=0)).label(status.value)
        for status in Status
    ]
    sums = [func.sum(parts.c[name]).label(name) for name in _SUMS]
    return select(*groups, *by_status, *sums).group_by(*groups).order_by(*order)


def _parts(which: UsageFilter) -> Iterable[Select[Any]]:
    """Full hours from their sums; what is before and after them from rows."""
    since_s, until_s = which.since_s, which.until_s
    first_s = -_FAR_S if since_s is None else ceil(since_s / HOUR_S) * HOUR_S
    last_s = _FAR_S if until_s is None else hour_of(until_s)
    if first_s > last_s:
        yield _rows(which, last_s)
        return
    whole = replace(which, since_s=first_s, until_s=last_s)
    yield select(usage_hours).where(*whole.hours())
    if since_s is not None and since_s < first_s:
        yield _rows(replace(which, until_s=first_s), first_s - HOUR_S)
    if until_s is not None and until_s > last_s:
        yield _rows(replace(which, since_s=last_s), last_s)


def _rows(which: UsageFilter, hour_s: int) -> Select[Any]:
    """Rows of one hour, each as a sum."""
    c = usage.c
    return select(
        literal(hour_s, BigInteger).label("hour_s"),
        c.tenant,
        c.key_id,
        c.model,
        c.status,
        literal(1, BigInteger).label("requests"),
        c.prompt_tokens,
        func.coalesce(c.cached_tokens, 0).label("cached_tokens"),
        c.output_tokens,
        _us(c.gpu_ms).label("gpu_us"),
        c.cost_micros,
        case((c.ttft_ms.is_not(None), 1), else_=0).label("ttfts"),
        _us(func.coalesce(c.ttft_ms, 0)).label("ttft_us"),
        _us(c.latency_ms).label("latency_us"),
    ).where(*which.rows())


def _us(ms: ColumnElement[Any]) -> ColumnElement[int]:
    return cast(func.round(ms * 1000), BigInteger)


def totals(rows: Sequence[Any], by: By) -> list[UsageTotals]:
    """What `summed` has found, for people."""
    found: list[Sums] = [dict(row) for row in rows]
    return [_totals(sums, by) for sums in (_by_month(found) if by == "month" else found)]


def _by_month(days: Sequence[Sums]) -> list[Sums]:
    months: dict[str, Sums] = {}
    for day in days:
        start = _utc(day["start_s"]).replace(day=1)
        month = months.setdefault(start.isoformat(), {"start_s": start.timestamp()})
        for name in (*Status, *_SUMS):
            if day[name] is not None:
                month[name] = (month.get(name) or 0) + day[name]
    return list(months.values())


def _totals(sums: Sums, by: By) -> UsageTotals:
    whole = {name: int(sums.get(name) or 0) for name in (*Status, *_SUMS)}
    cost_micros = sums.get("cost_micros")
    return UsageTotals(
        tenant=sums.get("tenant"),
        key_id=sums.get("key_id"),
        model=sums.get("model"),
        start=_utc(sums["start_s"]).isoformat() if by in _PERIODS_S else None,
        requests=whole["requests"],
        finished=whole[Status.FINISHED],
        failed=whole[Status.FAILED],
        cancelled=whole[Status.CANCELLED],
        refused=whole[Status.REFUSED],
        prompt_tokens=whole["prompt_tokens"],
        cached_tokens=whole["cached_tokens"],
        output_tokens=whole["output_tokens"],
        gpu_ms=whole["gpu_us"] / 1000,
        cost=None if cost_micros is None else int(cost_micros) / 1_000_000,
        mean_ttft_ms=_mean_ms(whole["ttft_us"], whole["ttfts"]),
        mean_latency_ms=_mean_ms(whole["latency_us"], whole["requests"]),
    )


def _utc(at_s: float) -> datetime:
    return datetime.fromtimestamp(int(at_s), UTC)


def _mean_ms(sum_us: int, number: int) -> float | None:
    return sum_us / number / 1000 if number else None

"""Runs side by side for people: a row for each rate and measure, a column for each policy, the best marked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import TenantName
from preble.daemon.sim.report import Run

BEST = "*"


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a run, in the unit it is shown in."""

    name: str
    value: Callable[[Run], float | None]
    more_is_better: bool = False
    counts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A table: its title, the names of its columns and the cells."""

    title: str
    columns: list[str]
    rows: list[list[str]]


MEASURES = (
    Measure("mean latency s", lambda run: run.mean_latency_s),
    Measure("p99 latency s", lambda run: run.p99_latency_s),
    Measure("mean TTFT s", lambda run: run.mean_ttft_s),
    Measure("p99 TTFT s", lambda run: run.p99_ttft_s),
    Measure("mean TPOT ms", lambda run: None if run.mean_tpot_s is None else 1000 * run.mean_tpot_s),
    Measure("hit %", lambda run: None if run.hit_ratio is None else 100 * run.hit_ratio, more_is_better=True),
    Measure("served req/s", lambda run: run.throughput, more_is_better=True),
)
_FAIRNESS = (
    Measure("Jain's index", lambda run: run.jain_index, more_is_better=True),
    Measure("service gap s", lambda run: run.service_gap_s),
)
_REFUSED = Measure("refused", lambda run: run.refused, counts=True)


def compare(runs: Sequence[Run]) -> Iterator[Comparison]:
    """Tables of these runs, which are of one workload. Several seeds are shown by their mean."""
    seeds = len({run.seed for run in runs})
    suffix = f", mean of {seeds} seeds" if seeds > 1 else ""
    measures = [*MEASURES, *([_REFUSED] if any(run.refused for run in runs) else [])]
    first = runs[0]
    oracle = fmean(run.oracle_hit_ratio for run in runs)
    title = f"{first.workload}: {first.requests:,} requests on {first.gpus} x {first.fit}, {first.arrivals} arrivals"
    yield _table(f"{title}{suffix}; no policy can hit more than {100 * oracle:.1f} %", runs, "measure", measures)
    tenants = sorted({tenant for run in runs for tenant in run.tenants})
    if len(tenants) > 1:
        yield _table(f"fairness between tenants{suffix}", runs, "measure", _FAIRNESS)
        of_each = [Measure(tenant, partial(_p99_ttft_s, tenant)) for tenant in tenants]
        yield _table(f"p99 TTFT in s, by tenant{suffix}", runs, "tenant", of_each)


def label(run: Run) -> str:
    """What a run is called among others: fairness is named unless it is the usual."""
    return run.policy if run.fairness == SchedulerConfig().fairness else f"{run.policy}/{run.fairness}"


def _p99_ttft_s(tenant: TenantName, run: Run) -> float | None:
    return run.tenants[tenant].p99_ttft_s if tenant in run.tenants else None


def _table(title: str, runs: Sequence[Run], kind: str, measures: Sequence[Measure]) -> Comparison:
    labels = list(dict.fromkeys(label(run) for run in runs))
    rows = []
    for rate in dict.fromkeys(run.rate for run in runs):
        for number, measure in enumerate(measures):
            values = [
                _mean([measure.value(run) for run in runs if run.rate == rate and label(run) == one]) for one in labels
            ]
            rows.append([f"{rate:.4g}" if number == 0 else "", measure.name, *_marked(values, measure)])
    widths = [max([len(name), *(len(row[2 + at]) for row in rows)]) for at, name in enumerate(labels)]
    for row in rows:
        row[2:] = [cell.rjust(width) for cell, width in zip(row[2:], widths, strict=True)]
    columns = [name.rjust(width) for name, width in zip(labels, widths, strict=True)]
    return Comparison(title=title, columns=["req/s", kind, *columns], rows=rows)


def _marked(values: Sequence[float | None], measure: Measure) -> list[str]:
    """What looks alike is equally good; if all do, none is best."""
    show = _shown_count if measure.counts else shown
    texts = [show(value) for value in values]
    known = [value for value in values if value is not None]
    if len(set(texts)) < 2 or not known:
        return [f"{text}  " for text in texts]
    best = show(max(known) if measure.more_is_better else min(known))
    return [f"{text} {BEST if text == best else ' '}" for text in texts]


def shown(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:#.3g}".rstrip(".")


def _shown_count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}".removesuffix(".0")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

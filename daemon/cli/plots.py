"""Plots of simulations, as PNG and SVG: latency and hits against the rate, and each GPU's load over time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from preble.daemon.cli.sim_runs import Done
from preble.daemon.sim.comparison import label, shown
from preble.daemon.sim.report import Run

Value = Callable[[Run], float | None]

# Okabe and Ito's colours, which are told apart with any colour vision; markers and dashes tell policies apart in grey.
_LOOKS = {
    "e2": ("#0072B2", "o", "-"),
    "e2_paper": ("#56B4E9", "s", "--"),
    "round_robin": ("#D55E00", "^", "-."),
    "least_loaded": ("#E69F00", "v", ":"),
    "prefix_affinity": ("#009E73", "D", (0, (5, 1))),
}
_MORE_LOOKS = (("#CC79A7", "P", "-"), ("#000000", "X", "--"), ("#8C6D31", "*", ":"), ("#7F7F7F", "h", "-."))
_GPU_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_ORACLE_COLOUR = "#555555"
_LOG_BEYOND = 20
"""Where the largest value is so many times the smallest, a linear axis would hide the small ones."""
_MOST_TICKS = 12

_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titlesize": 11.5,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "svg.hashsalt": "preble",  # equal runs make equal files
}


@dataclass(frozen=True, slots=True)
class _Line:
    """One policy's values at each rate: the mean over seeds, and between which values the seeds are."""

    name: str
    rates: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


def draw(results: Sequence[Done], folder: Path) -> Iterator[Path]:
    """Draw all plots of these results into a folder, which is there."""
    runs = [done.run for done in results]
    with rc_context(_STYLE):
        yield from _save(_latency(runs), folder / "latency")
        yield from _save(_hits(runs), folder / "hit_ratio")
        yield from _save(_load(results), folder / "load")
        if len({tenant for run in runs for tenant in run.tenants}) > 1:
            yield from _save(_tenants(runs), folder / "tenants")


def _save(figure: Figure, stem: Path) -> Iterator[Path]:
    for suffix, options in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        path = stem.with_suffix(suffix)
        figure.savefig(path, **options)
        yield path


def _latency(runs: Sequence[Run]) -> Figure:
    figure = _figure(runs, "latency from arrival to last token", width=9.5)
    panels: tuple[tuple[str, Value], ...] = (
        ("mean", lambda run: run.mean_latency_s),
        ("99th percentile", lambda run: run.p99_latency_s),
    )
    for axes, (title, value) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.set_title(title)
        _against_rate(axes, runs, value)
        axes.set_ylabel("latency (s)")
    _legend(figure)
    return figure


def _hits(runs: Sequence[Run]) -> Figure:
    figure = _figure(runs, "prompt tokens found in the KV cache", width=7.6)
    axes = figure.subplots()
    _against_rate(axes, runs, lambda run: None if run.hit_ratio is None else 100 * run.hit_ratio, log=False)
    oracle = 100 * fmean(run.oracle_hit_ratio for run in runs)
    axes.axhline(oracle, color=_ORACLE_COLOUR, linestyle=(0, (2, 2)), linewidth=1.5, label="one infinite cache (bound)")
    axes.set_ylabel("hit ratio (% of prompt tokens)")
    axes.set_ylim(0, 110)
    _legend(figure)
    return figure


def _load(results: Sequence[Done]) -> Figure:
    """At the highest rate, of the first seed: where policies differ most."""
    rate = max(done.run.rate for done in results)
    firsts: dict[str, Done] = {}
    for done in results:
        if done.run.rate == rate:
            firsts.setdefault(label(done.run), done)
    runs = [done.run for done in firsts.values()]
    what = f"requests on each GPU, running or waiting, at {rate:.4g} req/s (seed {runs[0].seed})"
    figure = _figure(runs, what, width=9.5, height=1.1 + 1.75 * len(firsts))
    all_axes = figure.subplots(len(firsts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, done) in zip(all_axes, firsts.items(), strict=True):
        axes.set_title(name, loc="left")
        _gpus_over_time(axes, done)
        axes.set_ylabel("requests")
    all_axes[0].set_ylim(bottom=0)  # shared, so only now that all is drawn
    all_axes[0].set_xlim(left=0)
    all_axes[-1].set_xlabel("time (s)")
    _legend(figure)
    return figure


def _gpus_over_time(axes: Axes, done: Done) -> None:
    at_s, of_each = done.loads.at_s, done.loads.requests
    if len(of_each) <= len(_GPU_COLOURS):
        for (gpu, values), colour in zip(of_each.items(), _GPU_COLOURS, strict=False):
            axes.plot(at_s, values, color=colour, linewidth=1.4, label=gpu)
        return
    at_once = [sorted(values) for values in zip(*of_each.values(), strict=True)]
    colour = _GPU_COLOURS[0]
    least, most = [values[0] for values in at_once], [values[-1] for values in at_once]
    axes.fill_between(at_s, least, most, color=colour, alpha=0.25, linewidth=0, label="least to most loaded GPU")
    axes.plot(at_s, [median(values) for values in at_once], color=colour, linewidth=1.4, label="median GPU")


def _tenants(runs: Sequence[Run]) -> Figure:
    """At the highest rate."""
    rate = max(run.rate for run in runs)
    runs = [run for run in runs if run.rate == rate]
    names = sorted({tenant for run in runs for tenant in run.tenants})
    labels = list(dict.fromkeys(label(run) for run in runs))
    figure = _figure(
        runs, f"99th percentile of the time to first token, by tenant, at {rate:.4g} req/s", 9.5, of_seeds="mean"
    )
    axes = figure.subplots()
    for number, (name, (colour, _, _)) in enumerate(_looks(labels).items()):
        values = [
            _mean(run.tenants[tenant].p99_ttft_s for run in runs if label(run) == name and tenant in run.tenants)
            for tenant in names
        ]
        width = 0.8 / len(labels)
        axes.bar(
            [at - 0.4 + width * (number + 0.5) for at in range(len(names))], values, width, color=colour, label=name
        )
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("time to first token, p99 (s)")
    _legend(figure)
    return figure


def _against_rate(axes: Axes, runs: Sequence[Run], value: Value, log: bool = True) -> None:
    lines = list(_lines(runs, value))
    looks = _looks([line.name for line in lines])
    if len({run.rate for run in runs}) == 1:
        _bars(axes, lines, runs[0].rate)
    else:
        for number, line in enumerate(lines):
            colour, marker, dashes = looks[line.name]
            order = 3 - number / len(lines)  # the first named policy on top
            axes.plot(
                line.rates, line.means, color=colour, marker=marker, linestyle=dashes, label=line.name, zorder=order
            )
            if line.lows != line.highs:
                axes.fill_between(
                    line.rates, line.lows, line.highs, color=colour, alpha=0.15, linewidth=0, zorder=order
                )
        rates = sorted({run.rate for run in runs})
        axes.set_xlabel("rate (req/s)")
        axes.set_xlim(0, rates[-1] * 1.04)
        if len(rates) <= _MOST_TICKS:
            axes.set_xticks(rates, [f"{rate:.4g}" for rate in rates])
        seen = [mean for line in lines for mean in line.means if mean > 0]
        if log and seen and max(seen) > _LOG_BEYOND * min(seen):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            return
    axes.set_ylim(bottom=0)


def _bars(axes: Axes, lines: Sequence[_Line], rate: float) -> None:
    for at, (line, (colour, _, _)) in enumerate(
        zip(lines, _looks([line.name for line in lines]).values(), strict=True)
    ):
        spread = [[mean - low for mean, low in zip(line.means, line.lows, strict=True)]]
        spread.append([high - mean for mean, high in zip(line.means, line.highs, strict=True)])
        drawn = axes.bar(
            [at] * len(line.means),
            line.means,
            0.7,
            color=colour,
            yerr=spread if any(map(any, spread)) else None,
            capsize=4,
        )
        axes.bar_label(drawn, fmt=shown, padding=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.set_xticks(range(len(lines)), [line.name.replace("_", "\n", 1) for line in lines])
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.9, len(lines) - 0.1)
    axes.margins(y=0.12)
    axes.set_xlabel(f"policy, at {rate:.4g} req/s")


def _lines(runs: Sequence[Run], value: Value) -> Iterator[_Line]:
    for name in dict.fromkeys(label(run) for run in runs):
        line = _Line(name, [], [], [], [])
        for rate in sorted({run.rate for run in runs}):
            values = [value(run) for run in runs if run.rate == rate and label(run) == name]
            known = [one for one in values if one is not None]
            if known:
                line.rates.append(rate)
                line.means.append(fmean(known))
                line.lows.append(min(known))
                line.highs.append(max(known))
        yield line


def _looks(labels: Sequence[str]) -> dict[str, tuple[str, str, Any]]:
    more = iter(_MORE_LOOKS * len(labels))
    return {name: _LOOKS.get(name) or next(more) for name in labels}


def _figure(
    runs: Sequence[Run], what: str, width: float, height: float = 4.3, of_seeds: str = "mean and range"
) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    run = runs[0]
    seeds = len({run.seed for run in runs})
    setting = f"{run.requests:,} requests, {run.gpus} x {run.fit}, {run.arrivals} arrivals"
    if seeds > 1:
        setting += f"; {of_seeds} of {seeds} seeds"
    figure.suptitle(f"{run.workload}: {what}\n{setting}", fontsize=11.5)
    return figure


def _legend(figure: Figure) -> None:
    """Below all panels, each name once."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        named.update(zip(names, handles, strict=True))
    if named:
        figure.legend(
            list(named.values()),
            list(named),
            loc="outside lower center",
            ncols=min(len(named), int(figure.get_figwidth() / 1.6)),
        )


def _mean(values: Iterator[float | None]) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else 0.0

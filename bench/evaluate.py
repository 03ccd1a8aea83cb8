"""Everything that docs/evaluation.md shows: runs the simulations, then writes its tables and plots.

    .venv/bin/python bench/evaluate.py OUT --trace mooncake_synthetic.jsonl   # all of it, two processes at a time
    .venv/bin/python bench/evaluate.py OUT --only video,longdoc               # some workloads, to look at
    .venv/bin/python bench/evaluate.py OUT --write                            # and put tables and plots into docs/

OUT gets `runs.json` (a setting and its numbers for each run, the same whenever it is run), `tables.md` and SVGs. Runs
that OUT has already are not run again, as long as the code they came from, whose hash is kept with them, is the same.
The trace is FAST25-release/traces/synthetic_trace.jsonl of kvcache-ai/Mooncake; without it that part is left out.
"""

import argparse
import hashlib
import json
import multiprocessing
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from preble.daemon.cli.sim_runs import Job, Source, bound, simulate
from preble.daemon.config import SchedulerConfig
from preble.daemon.sim.fits import load_fit
from preble.daemon.sim.report import Setting

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/evaluation.md"
PUBLISHED = json.loads((ROOT / "docs/evaluation/published.json").read_text())["curves"]
FIT = "a6000-mistral-7b"
POLICIES = ("e2", "e2_paper", "prefix_affinity", "least_loaded", "round_robin")
PAPERS = ("tool", "embodied", "programming", "video", "longdoc")
WORKLOADS = (*PAPERS, "agent", "noisy_neighbour")
SWITCHES = ("rebalance", "decode_balance", "cached_first", "move_waiting")

# For each workload, rates per GPU from low load to overload; the second last is the knee.
RATES = {
    "tool": (1.5, 7.5, 12.0),
    "embodied": (1.5, 7.5, 12.5),
    "programming": (0.5, 3.0, 5.0),
    "video": (0.25, 0.75, 1.75),
    "longdoc": (0.1, 0.4, 1.1),
    "agent": (2.5, 20.0, 40.0),
    "noisy_neighbour": (1.0, 4.5, 6.0),
}
# Requests of a run, by GPUs. Sessions cost most to simulate, and their runs are long: fewer seeds.
REQUESTS = {
    "tool": {2: 3900, 4: 4000, 8: 4800},
    "embodied": {2: 9600, 4: 19200, 8: 38400},
    "programming": {2: 1600, 4: 1600, 8: 1600},
    "video": {2: 1200, 4: 1200, 8: 1600},
    "longdoc": {2: 540, 4: 540, 8: 800},
    "agent": {2: 10000, 4: 10000, 8: 12000},
    "noisy_neighbour": {2: 1500, 4: 1500, 8: 2000},
}
SEEDS = (1, 2, 3)
ABLATION_GPUS = {"embodied": 2, "agent": 2}
# Fixed numbers of requests that the paper's runs seem to have had; see `run_lengths`.
PAPER_REQUESTS = {"video": {2: 250, 4: 830}, "longdoc": {2: 75, 4: 190}}
# From the reference's configurations: seconds of load, and requests per request per second.
PAPER_SECONDS = {"tool": 300, "programming": 625}
CPU_S_PER_1000 = {"embodied": 0.9, "video": 0.9, "longdoc": 0.9, "agent": 0.6}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run."""

    workload: str
    gpus: int
    requests: int
    rate: float
    policy: str = "e2"
    seed: int = 1
    arrivals: str = "poisson"
    off: tuple[str, ...] = ()
    """Switches of [scheduler] that are off."""

    @property
    def key(self) -> str:
        return json.dumps(asdict(self))

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        return self.requests * (CPU_S_PER_1000.get(self.workload, 0.4) + self.gpus / 200) / 1000


# --- what is run ---


def seeds_of(workload: str, gpus: int) -> tuple[int, ...]:
    if workload == "embodied":
        return SEEDS[:1]
    if workload == "agent":
        return SEEDS[:2] if gpus == 2 else SEEDS[:1]
    return SEEDS


def rates_of(workload: str, gpus: int) -> tuple[float, ...]:
    """Per GPU."""
    rates = RATES[workload]
    if gpus > 2 and workload in ("embodied", "agent"):
        return rates[1:] if gpus == 4 else rates[1:2]
    return rates[1:] if gpus == 8 else rates


def grid(workload: str, gpus: int, rate: float, policy: str, seed: int) -> Point:
    """A point of section 3, at a rate per GPU."""
    requests = REQUESTS[workload][gpus]
    if workload == "agent" and rate == RATES[workload][0]:
        requests //= 4
    return Point(workload=workload, gpus=gpus, requests=requests, rate=round(rate * gpus, 4), policy=policy, seed=seed)


def grids() -> Iterator[Point]:
    for workload in WORKLOADS:
        for gpus in (2, 4, 8):
            for rate in rates_of(workload, gpus):
                for seed in seeds_of(workload, gpus):
                    for policy in POLICIES:
                        yield grid(workload, gpus, rate, policy, seed)


def paper_length(workload: str, gpus: int, rate: float) -> int | None:
    if workload in PAPER_REQUESTS:
        return PAPER_REQUESTS[workload][gpus]
    return round(PAPER_SECONDS[workload] * rate) if workload in PAPER_SECONDS else None


def paper_seeds(workload: str) -> tuple[int, ...]:
    return SEEDS if workload in PAPER_REQUESTS else SEEDS[:1]


def papers() -> Iterator[Point]:
    """Section 2, with the paper's run lengths."""
    for workload in PAPERS:
        for gpus in (2, 4):
            for rate, _ in PUBLISHED[workload][str(gpus)]["mean"]["Preble"]:
                requests = paper_length(workload, gpus, rate)
                if requests is None:
                    continue
                for seed in paper_seeds(workload):
                    for policy in POLICIES:
                        yield Point(
                            workload=workload, gpus=gpus, requests=requests, rate=rate, policy=policy, seed=seed
                        )


STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("placement alone", "e2", SWITCHES),
    ("+ rebalance", "e2", SWITCHES[1:]),
    ("+ decode_balance", "e2", SWITCHES[2:]),
    ("+ cached_first", "e2", SWITCHES[3:]),
    ("+ move_waiting = e2", "e2", ()),
    ("e2 - rebalance", "e2", ("rebalance",)),
    ("e2 - decode_balance", "e2", ("decode_balance",)),
    ("e2 - cached_first", "e2", ("cached_first",)),
    ("e2_paper - rebalance", "e2_paper", ("rebalance",)),
    ("e2_paper", "e2_paper", ()),
)


def ablation(workload: str, policy: str, off: tuple[str, ...], seed: int) -> Point:
    gpus = ABLATION_GPUS.get(workload, 4)
    rate = RATES[workload][-1] if workload == "agent" else RATES[workload][-2]
    return replace(grid(workload, gpus, rate, policy, seed), off=off)


def ablation_seeds(workload: str) -> tuple[int, ...]:
    return SEEDS[:1] if workload in ABLATION_GPUS else SEEDS


def ablations() -> Iterator[Point]:
    for workload in WORKLOADS:
        for seed in ablation_seeds(workload):
            for _, policy, off in STEPS:
                yield ablation(workload, policy, off, seed)


def bursts(workload: str, policy: str, seed: int) -> Point:
    return replace(grid(workload, 4, RATES[workload][-2], policy, seed), arrivals="azure")


LARGE = (
    Point(workload="tool", gpus=64, requests=20_000, rate=4.5 * 64),
    Point(workload="tool", gpus=512, requests=20_000, rate=4.5 * 512),
)
TRACE_GPUS = (8, 16)


def mooncake(gpus: int, policy: str) -> Point:
    return Point(workload="mooncake", gpus=gpus, requests=3993, rate=0.0, policy=policy, arrivals="trace")


def oracle(workload: str, gpus: int, seed: int) -> Point:
    return replace(grid(workload, gpus, RATES[workload][-2], "e2", seed), policy="oracle")


def plan(with_trace: bool) -> Iterator[Point]:
    yield from grids()
    yield from papers()
    yield from ablations()
    for workload in WORKLOADS:
        for gpus in (2, 4, 8):
            for seed in seeds_of(workload, gpus):
                yield oracle(workload, gpus, seed)
    for workload in ("tool", "video"):
        for seed in SEEDS:
            for policy in POLICIES:
                yield bursts(workload, policy, seed)
    yield from LARGE
    if with_trace:
        for gpus in TRACE_GPUS:
            for policy in POLICIES:
                yield mooncake(gpus, policy)


# --- running it ---

KEPT = (
    "requests", "refused", "mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "hit_ratio",
    "throughput", "duration_s", "preemptions",
)  # fmt: skip


def run(point: Point, trace: Path | None) -> dict:
    """Numbers of one run. The oracle is a run of another kind: it has a hit ratio only."""
    is_trace = point.workload == "mooncake"
    source = Source(
        workload=None if is_trace else point.workload,
        trace=trace if is_trace else None,
        requests=point.requests,
        gpus=point.gpus,
        arrivals="poisson" if is_trace else point.arrivals,
    )
    rate = None if is_trace else point.rate
    if point.policy == "oracle":
        return {"hit_ratio": bound(source, rate, point.seed, load_fit(FIT), lambda _: None)}
    setting = Setting(
        workload=point.workload,
        policy=point.policy,
        fairness="none",
        gpus=point.gpus,
        rate=point.rate,
        seed=point.seed,
        fit=FIT,
        arrivals=point.arrivals,
    )
    config = msgspec.structs.replace(SchedulerConfig(policy=point.policy), **dict.fromkeys(point.off, False))
    done = simulate(Job(source=source, rate=rate, setting=setting, config=config, sampled=False), lambda _: None)
    numbers = {name: getattr(done.run, name) for name in KEPT}
    if point.workload == "noisy_neighbour":
        others = [of_one for name, of_one in done.run.tenants.items() if name != "flooder"]
        numbers["neighbours_p99_ttft_s"] = max(of_one.p99_ttft_s for of_one in others)
    return numbers


def code_hash() -> str:
    """Of all code that the numbers come from."""
    digest = hashlib.sha256()
    daemon = Path(sys.modules["preble.daemon.sim.fits"].__file__ or "").parents[1]
    files = [daemon / "config.py", *(path for name in ("flow", "sched", "sim") for path in (daemon / name).rglob("*"))]
    for path in sorted(files):
        if path.suffix in (".py", ".toml"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run_all(points: Iterable[Point], out: Path, trace: Path | None, processes: int) -> dict[Point, dict]:
    """Run what has not been run. Progress goes to stderr."""
    by_key = {point.key: point for point in points}
    kept_path, code = out / "runs.json", code_hash()
    kept = json.loads(kept_path.read_text()) if kept_path.exists() else {}
    runs: dict[str, dict] = kept["runs"] if kept.get("code") == code else {}
    todo = sorted((point for key, point in by_key.items() if key not in runs), key=lambda point: -point.cost)
    started_s = written_s = perf_counter()

    def keep() -> None:
        kept_path.write_text(json.dumps({"code": code, "runs": dict(sorted(runs.items()))}, indent=0))

    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(run, point, trace): point for point in todo}
        total_cost, done_cost = sum(point.cost for point in todo), 0.0
        for future in as_completed(futures):
            runs[futures[future].key] = future.result()
            done_cost += futures[future].cost
            if perf_counter() - written_s > 30:
                keep()
                written_s = perf_counter()
                taken_s = written_s - started_s
                print(f"{done_cost / total_cost:4.0%} after {taken_s:.0f} s", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
        keep()
    if todo:
        print(f"{len(todo)} runs in {perf_counter() - started_s:.0f} s, {processes} at a time", file=sys.stderr)
    return {point: runs[key] for key, point in by_key.items()}


# --- tables ---

Runs = dict[Point, dict]


def mid(runs: Runs, points: Iterable[Point], name: str) -> float:
    """The median over seeds."""
    return median(runs[point][name] for point in points)


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    rule = ["---" if at == 0 else "--:" for at in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def of_seeds(values: list[float]) -> str:
    """The median, and between what the seeds are if that differs."""
    low, middle, high = (f"{value:.2f}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def comparisons(runs: Runs) -> str:
    """Section 3: every policy's mean latency over the best other's."""
    rows = []
    others = [policy for policy in POLICIES if policy != "e2"]
    for workload in WORKLOADS:
        for gpus in (2, 4, 8):
            for rate in rates_of(workload, gpus):
                means = {
                    policy: [
                        runs[grid(workload, gpus, rate, policy, seed)]["mean_latency_s"]
                        for seed in seeds_of(workload, gpus)
                    ]
                    for policy in POLICIES
                }
                best = min(others, key=lambda policy: median(means[policy]))
                ratios = {
                    policy: [one / of_best for one, of_best in zip(means[policy], means[best], strict=True)]
                    for policy in POLICIES
                }
                e2 = of_seeds(ratios["e2"])
                rows.append(
                    [
                        workload.replace("_", " "),
                        str(gpus),
                        f"{rate * gpus:g}",
                        shown(median(means["e2"])),
                        f"**{e2}**" if median(ratios["e2"]) > 1.02 else e2,
                        *(
                            ("*" if policy == best else "")
                            + f"{median(ratios[policy]):.2f}"
                            + ("*" if policy == best else "")
                            for policy in others
                        ),
                    ]
                )
    return table(["workload", "GPUs", "req/s", "e2, s", "e2 / best other", *others], rows)


def knees(runs: Runs) -> str:
    rows = []
    for workload in WORKLOADS:
        for gpus in (2, 4, 8):
            seeds, rate, least = seeds_of(workload, gpus), RATES[workload][-2], RATES[workload][0]

            def ratios(over: str, under: str, name: str, at: float, gpus=gpus, seeds=seeds, workload=workload) -> str:
                values = [
                    runs[grid(workload, gpus, at, over, seed)][name] / runs[grid(workload, gpus, at, under, seed)][name]
                    for seed in seeds
                ]
                return f"{median(values):.2f}"

            e2 = mid(runs, (grid(workload, gpus, rate, "e2", seed) for seed in seeds), "hit_ratio")
            best = mid(runs, (oracle(workload, gpus, seed) for seed in seeds), "hit_ratio")
            rows.append(
                [
                    workload.replace("_", " "),
                    str(gpus),
                    f"{rate * gpus:g}",
                    ratios("round_robin", "e2", "mean_latency_s", rate),
                    ratios("round_robin", "e2", "p99_latency_s", rate),
                    ratios("prefix_affinity", "e2", "mean_latency_s", rate),
                    ratios("prefix_affinity", "e2", "p99_latency_s", rate),
                    f"{e2:.3f}",
                    f"{best:.3f}",
                    f"{e2 / best:.0%}",
                    ratios("e2", "round_robin", "mean_latency_s", least) if least in rates_of(workload, gpus) else "",
                ]
            )
    header = ["workload", "GPUs", "req/s", "rr/e2 mean", "p99", "pa/e2 mean", "p99", "hit e2", "bound", "share"]
    return table([*header, "e2/rr, low"], rows)


def ablation_table(runs: Runs) -> str:
    """Mean and p99 over those of the whole e2, per workload."""
    rows = []
    for name, policy, off in STEPS:
        row = [name]
        for workload in WORKLOADS:
            cells = []
            for number in ("mean_latency_s", "p99_latency_s"):
                values = [
                    runs[ablation(workload, policy, off, seed)][number]
                    / runs[ablation(workload, "e2", (), seed)][number]
                    for seed in ablation_seeds(workload)
                ]
                cells.append(f"{median(values):.2f}")
            row.append(" / ".join(cells))
        rows.append(row)
    whole = ["e2, s"]
    for workload in WORKLOADS:
        points = [ablation(workload, "e2", (), seed) for seed in ablation_seeds(workload)]
        whole.append(" / ".join(shown(mid(runs, points, name)) for name in ("mean_latency_s", "p99_latency_s")))
    where = [
        f"{workload.replace('_', ' ')} {ablation(workload, 'e2', (), 1).rate:g}/s on {ABLATION_GPUS.get(workload, 4)}"
        for workload in WORKLOADS
    ]
    return table(["mean / p99", *where], [whole, *rows])


def published_ratios(runs: Runs) -> str:
    """Section 2: round robin over e2 beside SGLang over Preble, mean and p99, at the rates of the paper."""
    rows = []
    for workload in PAPERS:
        for gpus in (2, 4):
            if paper_length(workload, gpus, 1.0) is None:
                continue
            curves = PUBLISHED[workload][str(gpus)]
            for kind, name in (("mean", "mean_latency_s"), ("p99", "p99_latency_s")):
                cells = []
                sglang = dict(map(tuple, curves[kind]["SGLang"]))
                for rate, preble in curves[kind]["Preble"]:
                    requests = paper_length(workload, gpus, rate)
                    assert requests is not None
                    ours = [
                        runs[replace(point, policy="round_robin")][name] / runs[point][name]
                        for seed in paper_seeds(workload)
                        for point in [Point(workload=workload, gpus=gpus, requests=requests, rate=rate, seed=seed)]
                    ]
                    cells.append(f"{rate:g}: {median(ours):.2f} ({sglang[rate] / preble:.2f})")
                rows.append([workload, str(gpus), kind, ", ".join(cells)])
    return table(["workload", "GPUs", "", "req/s: ours (published)"], rows)


def run_lengths() -> str:
    """How many requests the paper's overloaded runs had, if all had the same number.

    N requests at a rate r above the throughput T leave the last one N/T - N/r behind, and the mean half of that: a line
    over 1/r, whose slope is N.
    """
    rows = []
    saturated = {("video", 2): 4.0, ("video", 4): 6.0, ("longdoc", 2): 0.5, ("longdoc", 4): 1.0}
    for (workload, gpus), first in saturated.items():
        curves = PUBLISHED[workload][str(gpus)]
        row = [workload, str(gpus)]
        for kind, share in (("mean", 0.5), ("p99", 0.99)):
            points = [(rate, value) for rate, value in curves[kind]["SGLang"] if rate >= first]
            slope, at_0 = np.polyfit([1 / rate for rate, _ in points], [value for _, value in points], 1)
            row += [f"{-slope / share:.0f}", f"{-slope / at_0:.2f}"]
        rows.append([*row, str(PAPER_REQUESTS[workload][gpus])])
    return table(["workload", "GPUs", "N by mean", "T", "N by p99", "T", "taken"], rows)


def policy_rows(runs: Runs, what: str, point: Callable[[str, int], Point], seeds: tuple[int, ...]) -> Iterator[list]:
    for policy in POLICIES:
        points = [point(policy, seed) for seed in seeds]
        if points[0] not in runs:
            continue
        means = [runs[one]["mean_latency_s"] for one in points]
        spread = f" ({shown(min(means))}-{shown(max(means))})" if len(points) > 1 else ""
        numbers = [mid(runs, points, name) for name in ("p99_latency_s", "mean_ttft_s")]
        hit, refused = mid(runs, points, "hit_ratio"), max(runs[one]["refused"] for one in points)
        yield [
            what, str(points[0].gpus), policy, shown(median(means)) + spread, *map(shown, numbers), f"{hit:.3f}",
            f"{refused:,}",
        ]  # fmt: skip


def others_table(runs: Runs, with_trace: bool) -> str:
    rows: list[list[str]] = []
    if with_trace:
        for gpus in TRACE_GPUS:
            rows += policy_rows(runs, "Mooncake", lambda policy, _, gpus=gpus: mooncake(gpus, policy), (1,))
    for workload in ("tool", "video"):
        at = f"{RATES[workload][-2] * 4:g}/s"
        rows += policy_rows(
            runs, f"{workload} {at}, azure", lambda policy, seed, one=workload: bursts(one, policy, seed), SEEDS
        )
    for gpus in (64, 512):
        large = next(point for point in LARGE if point.gpus == gpus)
        rows += policy_rows(
            runs, f"tool {large.rate:g}/s", lambda policy, _, large=large: replace(large, policy=policy), (1,)
        )
    return table(["", "GPUs", "policy", "mean, s", "p99, s", "mean TTFT, s", "hit", "refused"], rows)


# --- plots ---

# Okabe and Ito's colours, as in `preble simulate --plot`.
LOOKS = {
    "e2": ("#0072B2", "o", "-"),
    "e2_paper": ("#56B4E9", "s", "--"),
    "round_robin": ("#D55E00", "^", "-."),
    "least_loaded": ("#E69F00", "v", ":"),
    "prefix_affinity": ("#009E73", "D", (0, (5, 1))),
}
STYLE = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "svg.hashsalt": "preble",
    "svg.fonttype": "none",
}


def curve(runs: Runs, workload: str, gpus: int, policy: str, name: str, paper: bool) -> tuple[list, list, list, list]:
    """Rates, medians, lowest and highest of seeds."""
    if paper:
        rates = [rate for rate, _ in PUBLISHED[workload][str(gpus)]["mean"]["Preble"]]
        of_rate = [
            [
                Point(
                    workload=workload,
                    gpus=gpus,
                    requests=paper_length(workload, gpus, rate) or 0,
                    rate=rate,
                    policy=policy,
                    seed=seed,
                )
                for seed in paper_seeds(workload)
            ]
            for rate in rates
        ]
    else:
        rates = [rate * gpus for rate in rates_of(workload, gpus)]
        of_rate = [
            [grid(workload, gpus, rate, policy, seed) for seed in seeds_of(workload, gpus)]
            for rate in rates_of(workload, gpus)
        ]
    values = [[runs[point][name] for point in points] for points in of_rate]
    return rates, [median(some) for some in values], [min(some) for some in values], [max(some) for some in values]


def draw(runs: Runs, workload: str, path: Path) -> None:
    lengths = [True, False] if paper_length(workload, 2, 1.0) else [False]
    figure = Figure(figsize=(11, 2.6 * len(lengths) + 0.7), layout="constrained")
    all_axes = figure.subplots(len(lengths), 4, squeeze=False)
    for row, paper in zip(all_axes, lengths, strict=True):
        kinds = [
            (gpus, kind, name)
            for gpus in (2, 4)
            for kind, name in (("mean", "mean_latency_s"), ("p99", "p99_latency_s"))
        ]
        for axes, (gpus, kind, name) in zip(row, kinds, strict=True):
            for policy, (colour, marker, dashes) in reversed(LOOKS.items()):
                rates, middle, low, high = curve(runs, workload, gpus, policy, name, paper)
                axes.plot(rates, middle, color=colour, marker=marker, linestyle=dashes, label=policy)
                if low != high:
                    axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
            for system, marker, colour in (("SGLang", "x", "#000000"), ("Preble", "+", "#CC79A7")):
                points = PUBLISHED[workload][str(gpus)][kind][system]
                label = f"{system}, published"
                axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=7, label=label, mew=1.6)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.set_xlim(left=0)
            axes.set_title(f"{gpus} GPUs, {kind}, {'paper' if paper else 'long'} runs", fontsize=9)
            axes.set_xlabel("req/s")
        row[0].set_ylabel("latency (s)")
    figure.suptitle(f"{workload}: latency from arrival to last token, A6000, Mistral-7B", fontsize=10)
    handles, names = all_axes[0][0].get_legend_handles_labels()
    order = [*range(len(LOOKS) - 1, -1, -1), len(LOOKS) + 1, len(LOOKS)]
    figure.legend([handles[at] for at in order], [names[at] for at in order], loc="outside lower center", ncols=7)
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    path.write_text(re.sub(r"(\.\d\d)\d+", r"\1", text.getvalue()))  # a hundredth of a point is fine enough


# --- the document ---


def fill(text: str, tables: dict[str, str]) -> str:
    """Put tables between their markers."""
    for name, lines in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, lines=lines: f"{found[1]}{lines}\n{found[2]}", text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trace", type=Path, help="Mooncake's synthetic trace")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="workloads, with commas: runs them, and writes no tables")
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    points = list(plan(args.trace is not None))
    if args.only:
        points = [point for point in points if point.workload in args.only.split(",")]
    runs = run_all(points, args.out, args.trace, args.processes)
    if args.only:
        return
    tables = {
        "run lengths": run_lengths(),
        "published ratios": published_ratios(runs),
        "comparisons": comparisons(runs),
        "knees": knees(runs),
        "ablation": ablation_table(runs),
        "others": others_table(runs, args.trace is not None),
    }
    text = "\n\n".join(f"<!-- {name} -->\n{lines}\n<!-- end -->" for name, lines in tables.items())
    (args.out / "tables.md").write_text(text + "\n")
    plots = ROOT / "docs/evaluation" if args.write else args.out
    with rc_context(STYLE):
        for workload in PAPERS:
            draw(runs, workload, plots / f"{workload}.svg")
    if args.write:
        DOCUMENT.write_text(fill(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()

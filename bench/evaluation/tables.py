"""The tables of docs/evaluation.md."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from statistics import median

import numpy as np

from evaluation.points import (
    ABLATION_GPUS,
    LARGE,
    PAPER_REQUESTS,
    PAPERS,
    POLICIES,
    PUBLISHED,
    RATES,
    SEEDS,
    STEPS,
    TRACE_GPUS,
    WORKLOADS,
    Point,
    ablation,
    ablation_seeds,
    bursts,
    grid,
    mooncake,
    oracle,
    paper_length,
    paper_seeds,
    rates_of,
    seeds_of,
)  # fmt: skip
from evaluation.running import Runs


def all_tables(runs: Runs, with_trace: bool) -> dict[str, str]:
    """By the names of their markers in the document."""
    return {
        "run lengths": run_lengths(),
        "published ratios": published_ratios(runs),
        "comparisons": comparisons(runs),
        "knees": knees(runs),
        "ablation": ablation_table(runs),
        "others": others_table(runs, with_trace),
    }


def fill(text: str, tables: dict[str, str]) -> str:
    """Put tables between their markers."""
    for name, lines in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda found, lines=lines: f"{found[1]}{lines}\n{found[2]}", text)
    return text


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
            best, possible = (
                mid(runs, (oracle(workload, gpus, seed) for seed in seeds), name)
                for name in ("hit_ratio", "capacity_hit_ratio")
            )
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
                    f"{possible:.3f}",
                    f"{e2 / possible:.0%}",
                    ratios("e2", "round_robin", "mean_latency_s", least) if least in rates_of(workload, gpus) else "",
                ]
            )
    header = ["workload", "GPUs", "req/s", "rr/e2 mean", "p99", "pa/e2 mean", "p99", "hit e2", "bound", "share"]
    return table([*header, "of this memory", "share", "e2/rr, low"], rows)


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

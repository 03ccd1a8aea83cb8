"""The plots of docs/evaluation.md."""

import re
from io import StringIO
from pathlib import Path
from statistics import median

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from evaluation.points import PAPERS, PUBLISHED, Point, grid, paper_length, paper_seeds, rates_of, seeds_of
from evaluation.running import Runs

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


def draw_all(runs: Runs, folder: Path) -> None:
    """One file for each of the paper's workloads."""
    with rc_context(STYLE):
        for workload in PAPERS:
            draw(runs, workload, folder / f"{workload}.svg")


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

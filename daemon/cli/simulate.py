"""`preble simulate`: the daemon's scheduler over modelled GPUs, one policy beside the other."""

import os
import sys
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preble.daemon.cli.output import emit, say, table
from preble.daemon.cli.remote import json_option

if TYPE_CHECKING:
    from preble.daemon.cli.sim_runs import Job, Source
    from preble.daemon.config import SchedulerConfig
    from preble.daemon.sim.report import Run

_WORKLOADS = ("tool", "embodied", "programming", "video", "longdoc", "agent", "noisy_neighbour")
_DEFAULT_FIT = "a6000-mistral-7b"


class _ListOf(click.ParamType):
    """One or several values, with commas between them. A value that comes twice counts once."""

    def __init__(self, name: str, convert: Callable[[str], Any]) -> None:
        self.name = name
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(dict.fromkeys(self._convert(part.strip()) for part in value.split(",")))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        name = self.name.upper()
        return f"{name}[,{name}...]"


def _rate(text: str) -> float:
    rate = float(text)
    if not (isfinite(rate) and rate > 0):
        raise ValueError("a rate is a number above 0")
    return rate


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError("a seed is not negative")
    return seed


def _policy(text: str) -> str:
    from preble.daemon.sched.policies import POLICIES

    if text not in POLICIES:
        raise ValueError(f"{text!r} is none of {', '.join(POLICIES)}")
    return text


def _fairness(text: str) -> str:
    if text != "none":
        raise ValueError(f"{text!r} is none of none")
    return text


def _n_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command()
@click.option("--workload", type=click.Choice(_WORKLOADS), help="Requests made by chance, like those of a study.")
@click.option(
    "--trace", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Or: a trace (Mooncake's JSON Lines)."
)
@click.option("--gpus", type=click.IntRange(1, 4096), default=2, show_default=True, help="Modelled GPUs.")
@click.option(
    "--policy", "policies", type=_ListOf("policy", _policy), default="e2,round_robin", show_default=True,
    help="e2, e2_paper, round_robin, least_loaded, prefix_affinity.",
)
@click.option(
    "--rate", "rates", type=_ListOf("rate", _rate),
    help="Requests per second.  [default: what keeps the GPUs busy, or the trace's own]",
)
@click.option(
    "--requests", type=click.IntRange(1, 10**8),
    help="How many.  [default: as many as make the workload's statistics, or the whole trace]",
)
@click.option("--seed", "seeds", type=_ListOf("seed", _seed), default="1", show_default=True, help="Of chance.")
@click.option("--fit", default=_DEFAULT_FIT, show_default=True, help="The GPUs' calibration: a name, or a TOML file.")
@click.option(
    "--fairness", type=_ListOf("fairness", _fairness), default="none", show_default=True, help="Between tenants: none."
)
@click.option(
    "--arrivals", type=click.Choice(["poisson", "azure", "constant"]), default="poisson", show_default=True,
    help="How a workload's requests come; azure is in bursts.",
)
@click.option(
    "--popularity", type=click.Choice(["measured", "uniform", "zipf"]), default="measured", show_default=True,
    help="How often each tool of the workload tool is asked for.",
)
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path),
    help="A configuration file whose [scheduler] is tried.  [default: built-in values]",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes at once.  [default: one for each CPU]")
@click.option("--plot", "plot_dir", type=click.Path(path_type=Path, file_okay=False), help="Put plots in this folder.")
@click.option(
    "--write-trace", "trace_out", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the workload as a trace, and simulate nothing.",
)
@json_option
def simulate(  # noqa: D417
    workload: str | None,
    trace: Path | None,
    gpus: int,
    policies: tuple[str, ...],
    rates: tuple[float, ...] | None,
    requests: int | None,
    seeds: tuple[int, ...],
    fit: str,
    fairness: tuple[str, ...],
    arrivals: Any,
    popularity: Any,
    config_path: Path | None,
    jobs: int | None,
    plot_dir: Path | None,
    trace_out: Path | None,
    as_json: bool,
) -> None:
    """Compare policies on modelled GPUs: the scheduler is the daemon's own, only engines and time are not.

    Every policy gets the same requests. Equal options give equal numbers.
    """
    from preble.daemon.cli.sim_runs import Source

    if (workload is None) == (trace is None):
        raise click.UsageError("give either --workload or --trace")
    if trace is not None and len(seeds) > 1:
        raise click.UsageError("--seed: a trace leaves nothing to chance, so several seeds would be the same run")
    source = Source(
        workload=workload,
        trace=trace,
        requests=requests or _n_requests(workload, trace, gpus),
        gpus=gpus,
        arrivals=arrivals,
        popularity=popularity,
    )
    if trace_out is not None:
        _write_trace(source, rates or _default_rates(source), seeds, trace_out)
        return
    if plot_dir is not None:
        _check_plots(plot_dir)
    _compare(source, policies, rates, seeds, fit, fairness, _scheduler(config_path), jobs or _n_cpus(), plot_dir, as_json)

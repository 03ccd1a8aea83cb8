"""`preble simulate`: the daemon's scheduler over modelled GPUs, one policy beside the other."""

import os
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preble.daemon.cli.output import emit, printable, say, table
from preble.daemon.cli.remote import json_option
from preble.daemon.errors import ConfigError

if TYPE_CHECKING:
    from preble.daemon.cli.sim_runs import Job, Source
    from preble.daemon.config import SchedulerConfig
    from preble.daemon.sim.report import Run

_WORKLOADS = ("tool", "embodied", "programming", "video", "longdoc", "agent", "noisy_neighbour")
_WITH_ITEMS = ("tool", "embodied", "programming", "video", "longdoc")
_LEAST_RATE, _MOST_RATE = 1e-6, 1e6
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-3, 1e3
_DEFAULT_FIT = "a6000-mistral-7b"


def _list_of(convert: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """One or several values, with commas between them. A value that comes twice counts once."""

    def values(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return tuple(dict.fromkeys(convert(part.strip()) for part in text.split(",")))
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None

    return values


def _rate(text: str) -> float:
    rate = float(text)
    if not _LEAST_RATE <= rate <= _MOST_RATE:
        raise ValueError(f"a rate is a number from {_LEAST_RATE:g} to {_MOST_RATE:g}")
    return rate


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError("a seed is not negative")
    return seed


def _weight(text: str) -> tuple[str, float]:
    tenant, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not tenant or not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise click.BadParameter(
            f"{text!r} is not a tenant, =, and a weight from {_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}"
        )
    return tenant, weight


def _policy(text: str) -> str:
    from preble.daemon.sched.policies import POLICIES

    if text not in POLICIES:
        raise ValueError(f"{text!r} is none of {', '.join(POLICIES)}")
    return text


def _fairness(text: str) -> str:
    from preble.daemon.config import FAIRNESS

    if text not in FAIRNESS:
        raise ValueError(f"{text!r} is none of {', '.join(FAIRNESS)}")
    return text


def _n_cpus() -> int:
    return len(os.sched_getaffinity(0))


@click.command()
@click.option("--workload", type=click.Choice(_WORKLOADS), help="Requests made by chance, like those of a study.")
@click.option(
    "--trace", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Or: a trace (Mooncake's JSON Lines)."
)
@click.option("--gpus", type=click.IntRange(1, 4096), default=2, show_default=True, help="Modelled GPUs.")
@click.option(
    "--policy",
    "policies",
    callback=_list_of(_policy),
    metavar="POLICY[,...]",
    default="e2,round_robin",
    show_default=True,
    help="e2, e2_paper, round_robin, least_loaded, prefix_affinity.",
)
@click.option(
    "--rate",
    "rates",
    callback=_list_of(_rate),
    metavar="RATE[,...]",
    help="Requests per second.  [default: what keeps the GPUs busy, or the trace's own]",
)
@click.option(
    "--requests",
    type=click.IntRange(1, 10**8),
    help="How many.  [default: as many as make the workload's statistics, or the whole trace]",
)
@click.option(
    "--seed", "seeds", callback=_list_of(_seed), metavar="SEED[,...]", default="1", show_default=True, help="Of chance."
)
@click.option("--fit", default=_DEFAULT_FIT, show_default=True, help="The GPUs' calibration: a name, or a TOML file.")
@click.option(
    "--fairness",
    callback=_list_of(_fairness),
    metavar="FAIRNESS[,...]",
    default="d2lpm",
    show_default=True,
    help="Between tenants: d2lpm (locality within), vtc, none.",
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "azure", "constant"]),
    default="poisson",
    show_default=True,
    help="How a workload's requests come; azure is in bursts.",
)
@click.option(
    "--popularity",
    type=click.Choice(["measured", "uniform", "zipf"]),
    default="measured",
    show_default=True,
    help="How often each tool of the workload tool is asked for.",
)
@click.option(
    "--items",
    type=click.IntRange(1, 10**6),
    help="Tools, agents, or videos, documents or problems asked about at a time.  [default: as in the paper, by GPUs]",
)
@click.option(
    "--flood",
    "flood_share",
    type=click.FloatRange(0, 1),
    help="The flooder's share of the workload noisy_neighbour.  [default: 0.75]",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    callback=lambda _, __, texts: dict(map(_weight, texts)),
    metavar="TENANT=WEIGHT",
    help="A tenant's share of the service; may be repeated.  [default: 1 for each]",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="A configuration file whose [scheduler] is tried.  [default: built-in values]",
)
@click.option("--jobs", type=click.IntRange(1), help="Processes at once.  [default: one for each CPU]")
@click.option("--plot", "plot_dir", type=click.Path(path_type=Path, file_okay=False), help="Put plots in this folder.")
@click.option(
    "--write-trace",
    "trace_out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the workload as a trace, and simulate nothing.",
)
@json_option
def simulate(
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
    items: int | None,
    flood_share: float | None,
    weights: dict[str, float],
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
    from preble.daemon.config import Config, load
    from preble.daemon.sim.demand import FLOOD_SHARE

    if (workload is None) == (trace is None):
        raise click.UsageError("give either --workload or --trace")
    if trace is not None and len(seeds) > 1:
        raise click.UsageError("--seed: a trace leaves nothing to chance, so that one seed is enough")
    if items is not None and workload not in _WITH_ITEMS:
        raise click.UsageError(
            f"--items: the workload {workload} has none" if workload else "--items: a trace has none"
        )
    if popularity != "measured" and workload != "tool":
        raise click.UsageError("--popularity: only the workload tool has a choice")
    if flood_share is not None and workload != "noisy_neighbour":
        raise click.UsageError("--flood: only the workload noisy_neighbour has one")
    n_requests, default_rate = _of_trace(trace, requests) if trace else _of_workload(workload or "", requests, gpus)
    source = Source(
        workload=workload,
        trace=trace,
        requests=n_requests,
        gpus=gpus,
        arrivals=arrivals,
        popularity=popularity,
        items=items,
        flood_share=FLOOD_SHARE if flood_share is None else flood_share,
    )
    if trace_out is not None:
        _write_trace(source, rates or (default_rate,), seeds, trace_out)
        return
    if plot_dir is not None:
        _check_plots(plot_dir)
    scheduler = (load(config_path) if config_path else Config()).scheduler
    todo = [
        _job(source, rate, default_rate, policy, fair, seed, fit, scheduler, weights, sampled=plot_dir is not None)
        for rate, policy, fair, seed in product(rates or (None,), policies, fairness, seeds)
    ]
    _compare(todo, jobs or _n_cpus(), plot_dir, as_json)


def _of_workload(name: str, requests: int | None, gpus: int) -> tuple[int, float]:
    """How many requests there are, and their rate if none is given."""
    from preble.daemon.sim.workloads import WORKLOADS

    workload = WORKLOADS[name]
    return requests or workload.requests_per_gpu * gpus, workload.rate_per_gpu * gpus


def _of_trace(path: Path, requests: int | None) -> tuple[int, float]:
    from preble.daemon.sim.trace import mean_rate, read

    found = read(path, requests)
    return len(found), mean_rate([request.at_s for request in found]) or 0.0


def _job(
    source: "Source",
    rate: float | None,
    default_rate: float,
    policy: str,
    fairness: str,
    seed: int,
    fit: str,
    scheduler: "SchedulerConfig",
    weights: dict[str, float],
    *,
    sampled: bool,
) -> "Job":
    from msgspec.structs import replace

    from preble.daemon.cli.sim_runs import Job
    from preble.daemon.ids import TenantName
    from preble.daemon.sim.report import Setting

    if rate is None and source.workload is not None:
        rate = default_rate
    setting = Setting(
        workload=source.name,
        policy=policy,
        fairness=fairness,
        gpus=source.gpus,
        rate=default_rate if rate is None else rate,
        seed=seed,
        fit=fit,
        arrivals=source.arrivals if source.workload else "trace",
    )
    config = replace(scheduler, policy=policy, fairness=fairness)
    of_tenants = {TenantName(tenant): weight for tenant, weight in weights.items()}
    return Job(source=source, rate=rate, setting=setting, config=config, sampled=sampled, weights=of_tenants)


def _compare(todo: "Sequence[Job]", n_processes: int, plot_dir: Path | None, as_json: bool) -> None:
    from preble.daemon.cli.sim_runs import run_all
    from preble.daemon.sim.report import Report

    results = run_all(todo, n_processes, show_progress=sys.stderr.isatty())
    runs = tuple(done.run for done in results)
    emit(Report(runs=runs), as_json, lambda: _render(runs))
    if plot_dir is not None:
        from preble.daemon.cli.plots import draw

        for path in draw(results, plot_dir):
            say(f"wrote {path}")


def _render(runs: "Sequence[Run]") -> None:
    from preble.daemon.sim.comparison import compare

    for number, comparison in enumerate(compare(runs)):
        if number:
            click.echo()
        click.echo(click.style(printable(comparison.title), bold=True))
        table(comparison.columns, comparison.rows)


def _check_plots(folder: Path) -> None:
    """Find out before the work what would fail after it."""
    try:
        import preble.daemon.cli.plots  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--plot: {error.name} is not installed; pip install matplotlib") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--plot: {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--plot: {folder}: cannot be written to")


def _write_trace(source: "Source", rates: "Sequence[float]", seeds: "Sequence[int]", path: Path) -> None:
    from preble.daemon.sim.trace import write

    if source.workload is None or len(rates) > 1 or len(seeds) > 1:
        raise click.UsageError("--write-trace: it takes one --workload, one rate and one seed")
    try:
        with path.open("wb") as file:
            file.writelines(write(source.generate(rates[0], seeds[0])))
    except OSError as error:
        raise ConfigError(f"--write-trace: {path}: {error.strerror}") from error
    say(f"wrote {path}: {source.requests:,} requests")

"""Simulations in parallel processes, with their results in the order they were asked for."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import PrebleError
from preble.daemon.ids import TenantName
from preble.daemon.sim.arrivals import Arrivals
from preble.daemon.sim.demand import FLOOD_SHARE, Demand
from preble.daemon.sim.draws import Popularity
from preble.daemon.sim.fits import Fit, load_fit
from preble.daemon.sim.oracle import oracle_hit_ratio
from preble.daemon.sim.report import Run, Setting, summarise
from preble.daemon.sim.trace import read
from preble.daemon.sim.types import SimRequest
from preble.daemon.sim.workloads import WORKLOADS
from preble.daemon.sim.world import World

_SAMPLES = 200
"""Moments at which GPUs are looked at for a plot, if the run keeps up with its rate."""
_SHOW_AFTER_S = 0.5
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where requests come from."""

    workload: str | None = None
    trace: Path | None = None
    requests: int
    gpus: int
    arrivals: Arrivals = "poisson"
    popularity: Popularity = "measured"
    items: int | None = None
    flood_share: float = FLOOD_SHARE

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.workload or (self.trace.stem if self.trace else "")

    def generate(self, rate: float | None, seed: int) -> Iterator[SimRequest]:
        """The requests. Raises `ConfigError` for a bad trace."""
        if self.trace is not None:
            return iter(read(self.trace, self.requests, rate))
        assert self.workload is not None
        assert rate is not None
        demand = Demand(
            requests=self.requests,
            rate=rate,
            seed=seed,
            n_gpus=self.gpus,
            arrivals=self.arrivals,
            popularity=self.popularity,
            items=self.items,
            flood_share=self.flood_share,
        )
        return WORKLOADS[self.workload].generate(demand)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One simulation."""

    source: Source
    rate: float | None
    """None for a trace's own."""
    setting: Setting
    config: SchedulerConfig
    sampled: bool
    """Whether the GPUs' load is wanted."""
    weights: Mapping[TenantName, float] = field(default_factory=dict)
    """Of tenants that do not have 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """What each GPU did over time."""

    at_s: list[float]
    requests: dict[str, list[int]]
    """By GPU: waiting for it or in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A simulation's result."""

    run: Run
    loads: Loads


Tell = Callable[[float], None]
"""Takes the share of the work that is done, 0 to 1."""


def simulate(job: Job, tell: Tell) -> Done:
    """Play one simulation. The oracle's part of its numbers is left 0."""
    fit = load_fit(job.setting.fit)
    world = World(
        fit=fit,
        gpus=job.source.gpus,
        config=job.config,
        sample_interval_s=job.source.requests / (job.setting.rate or 1.0) / _SAMPLES if job.sampled else None,
        progress=tell,
        n_expected=job.source.requests,
        weights=job.weights,
    )
    outcomes = world.run(job.source.generate(job.rate, job.setting.seed))
    loads = Loads(at_s=[], requests={})
    for load in world.loads:
        if not loads.at_s or load.at_s > loads.at_s[-1]:
            loads.at_s.append(load.at_s)
        loads.requests.setdefault(load.gpu, []).append(load.waiting + load.queued + load.running)
    cached_charge_ratio = job.config.cached_charge_ratio
    run = summarise(job.setting, outcomes, fit.time_model(), 0.0, job.weights, cached_charge_ratio)
    return Done(run=run, loads=loads)


def bound(source: Source, rate: float | None, seed: int, fit: Fit, tell: Tell) -> float:
    """The oracle's hit ratio, which is the same for all policies and rates."""
    ratio = oracle_hit_ratio(source.generate(rate, seed), fit.limits.block_size, fit.limits.max_model_len)
    tell(1.0)
    return ratio


def run_all(jobs: Sequence[Job], n_processes: int, show_progress: bool) -> list[Done]:
    """Play them all. Raises what one of them raised."""
    of_seed = {job.setting.seed: job for job in jobs}
    works = [partial(bound, job.source, job.rate, seed, load_fit(job.setting.fit)) for seed, job in of_seed.items()]
    results = _all([*works, *(partial(simulate, job) for job in jobs)], n_processes, show_progress)
    bounds = dict(zip(of_seed, results, strict=False))
    return [
        Done(
            run=msgspec.structs.replace(done.run, oracle_hit_ratio=bounds[done.run.seed]),
            loads=done.loads,
        )
        for done in results[len(bounds) :]
    ]


def _all(works: Sequence[Callable[[Tell], Any]], n_processes: int, show_progress: bool) -> list[Any]:
    n_processes = min(n_processes, len(works))
    with _shown(show_progress) as show:
        if n_processes == 1:
            return [work(partial(_tell_all, show, number, len(works))) for number, work in enumerate(works)]
        spawning = multiprocessing.get_context("spawn")  # a fork would copy the threads that draw the progress
        parts = spawning.Array("d", len(works), lock=False)  # each process writes its own
        pool = ProcessPoolExecutor(n_processes, spawning, _begin, (parts,))
        try:
            futures: list[Future[Any]] = [pool.submit(_work, number, work) for number, work in enumerate(works)]
            pending = set(futures)
            while pending:
                ended, pending = wait(pending, _POLL_S)
                for future in ended:
                    future.result()  # a failure ends all at once
                show(sum(parts) / len(works))
            return [future.result() for future in futures]
        except BrokenProcessPool:
            message = "a process of the simulation was killed; if memory ran out, fewer --jobs or --requests help"
            raise PrebleError(message) from None
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _tell_all(show: Tell, n_before: int, n_works: int, part: float) -> None:
    show((n_before + part) / n_works)


_parts: Any = None
"""How far each work is: shared by all processes."""


def _begin(parts: Any) -> None:
    """A process begins: Ctrl-C ends it silently."""
    global _parts
    _parts = parts
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _work(number: int, work: Callable[[Tell], Any]) -> Any:
    def tell(part: float) -> None:
        _parts[number] = part

    try:
        return work(tell)
    finally:
        tell(1.0)


@contextmanager
def _shown(on_terminal: bool) -> Iterator[Tell]:
    """A bar on stderr, if it is a terminal and the work takes longer than a moment."""
    if not on_terminal:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("simulating"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0, visible=False)
        began_s = monotonic()

        def show(part: float) -> None:
            progress.update(task, completed=part, visible=monotonic() - began_s > _SHOW_AFTER_S)

        yield show

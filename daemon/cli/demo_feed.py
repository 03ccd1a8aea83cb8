"""`preble demo-feed`: a live feed without engines, from the simulator in real time."""

import os
import sys
from time import monotonic, sleep, time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from preble.daemon.cli.demo_host import Answer
    from preble.daemon.wire.live import LiveEvent

_PREFIXES_EVERY_S = 5.0


@click.command("demo-feed")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all chance.")
@click.option(
    "--speed", type=click.FloatRange(0.1, 100), default=1.0, show_default=True, help="Times as fast as real time."
)
@click.option("--seconds", type=click.FloatRange(1), help="End after so much of the simulated time.")
@click.option("--at-once", is_flag=True, help="Do not wait at all; goes with --seconds.")
def demo_feed(seed: int, speed: float, seconds: float | None, at_once: bool) -> None:
    """Print what a console would be told, of modelled GPUs with made-up tenants: one JSON object a line.

    Each is {"at_s": seconds since the start, "event": a snapshot or a tick}, as a console records them, or has "asked"
    and "answer": decisions, what if, what prompts share. One of the GPUs fails now and then; one tenant has surges.
    """
    if at_once and seconds is None:
        raise click.UsageError("--at-once goes with --seconds.")
    try:
        _run(seed, None if at_once else speed, seconds)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: nothing is left to say


class _Over(Exception):
    """The time is up."""


def _run(seed: int, speed: float | None, seconds: float | None) -> None:
    from preble.daemon import __version__
    from preble.daemon.cli.demo_host import DemoHost, answers
    from preble.daemon.config import LiveConfig, SchedulerConfig
    from preble.daemon.obs.live.board import Board, Identity
    from preble.daemon.sim.demo import BATCH, FAILURE_S, GPUS, WEIGHTS, failures, registered, traffic
    from preble.daemon.sim.fits import load_fit
    from preble.daemon.sim.world import MODEL, World

    live, scheduler, epoch_s = LiveConfig(), SchedulerConfig(), time()
    host = DemoHost(registered(seed), epoch_s, live.interval_ms / 1000)
    fit = load_fit("a6000-mistral-7b")
    world = World(fit=fit, gpus=GPUS, config=scheduler, weights=WEIGHTS, batch=BATCH, watcher=host)
    identity = Identity(
        boot_id=f"demo-{seed}",
        version=__version__,
        name="demo",
        models=[MODEL],
        policy=scheduler.policy,
        fairness=scheduler.fairness,
        epoch_s=epoch_s,
        started_s=0.0,
    )
    board = Board(live, identity, host)
    host.attach(world, board)
    board.watch(True)
    started_s = monotonic()

    def passed(now_s: float) -> None:
        if seconds is not None and now_s > seconds:
            raise _Over
        board.age(now_s)
        _print(now_s, event=board.tick(now_s) if now_s else board.snapshot(now_s))
        for asked, answer in answers(host, world, scheduler, with_prefixes=now_s % _PREFIXES_EVERY_S == 0):
            _print(now_s, asked=asked, answer=answer)
        if speed is not None:
            sleep(max(0.0, started_s + now_s / speed - monotonic()))

    host.on_pass = passed
    for gpu, at_s in failures():
        world.fail(gpu, at_s, FAILURE_S)
    try:
        world.run(traffic(seed))
    except _Over:
        return


def _print(at_s: float, **said: "LiveEvent | Answer | str") -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode({"at_s": at_s, **said}) + b"\n")
    sys.stdout.buffer.flush()

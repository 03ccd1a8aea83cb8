"""The same load on the daemon with two real CPU engines and in the simulator: is the model true?

    .venv/bin/python bench/validate.py OUT            # about fourteen minutes
    .venv/bin/python bench/validate.py OUT --write    # and puts the table into docs/real-engines.md

The same prompts come at the same times, and answers are as long. The simulator gets the calibration that
bench/fit_cpu.py made. Right after each run some of its measurements are made again, while other processes keep as many
cores busy as daemon, API servers and clients did in the run, and the calibration is scaled by what they take now; so is
measured what a lone request of usual length takes on its way beyond what the calibration says. Wanted: mean TTFT and
mean latency within 20 %, hit ratio within 3 points. OUT gets `validation.json`.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean, median

import msgspec
from cpu_engines import Daemon, Load, dump, machine, play, serving
from cpu_loads import KV_BLOCKS, LOADS, fill, numbers, requests, small_fit, table
from cpu_points import company
from cpu_speed import slower, slowness
from cpu_watch import BUSY_CORES

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import RequestId
from preble.daemon.sim.demand import DEFAULT_TENANT
from preble.daemon.sim.fits import PS_PER_MS, Fit
from preble.daemon.sim.report import Run
from preble.daemon.sim.types import Piece, SimRequest
from preble.daemon.sim.world import simulate

POLICY = "e2"
RATES = {"tools": {"light": 4.0, "knee": 16.0, "over": 28.0}, "agents": {"light": 6.0, "knee": 24.0, "over": 40.0}}
"""Requests per second."""
ENGINE_ARGS = "--stream-interval=16"
"""After its first token an answer comes sixteen at a time: daemon and clients take less of the engines' processors."""
WITHIN = 0.2
WITHIN_POINTS = 3.0
WAY_TOKENS = 1800
"""Of a usual prompt: reading, rendering and hashing take the longer the more there are, though all is cached."""
WAY_OWN_TOKENS = 40
WAY_REQUESTS = 30
WAY_GAP_S = 0.1


@dataclass(frozen=True)
class Pair:
    """One load, played twice."""

    load: str
    level: str
    real: Run
    simulated: Run
    others_cores: float
    feeding_cores: float
    """What clients, daemon and API servers kept busy."""
    slowness: float
    """How many times as long as the calibration says steps took then."""
    way_ms: float
    """What a request needed on its way."""

    def off(self, name: str) -> float:
        """By how much the simulation says more."""
        return getattr(self.simulated, name) / getattr(self.real, name) - 1

    @property
    def points_off(self) -> float:
        """The same of the hit ratio, in points."""
        return 100 * (self.simulated.hit_ratio - self.real.hit_ratio)


# --- playing ---


def lone(number: int) -> SimRequest:
    return SimRequest(
        request_id=RequestId(f"r{number}"),
        tenant=DEFAULT_TENANT,
        at_s=number * WAY_GAP_S,
        prompt=(Piece(0, WAY_TOKENS), Piece(1 + number, WAY_OWN_TOKENS)),
        output_tokens=2,
        output_content=1 + WAY_REQUESTS + number,
        max_output_tokens=2,
    )


def way_s(daemon: Daemon, cores: float, fit: Fit) -> float:
    """What a request takes until its first token, beyond the prefill of what is its own, if so many cores are busy.

    The mean, as means are compared, of those whose beginning was in the cache.
    """
    daemon.forget()
    with company(cores):
        outcomes = asyncio.run(Load(daemon).play(map(lone, range(WAY_REQUESTS))))
    ttfts = [
        outcome.first_token_s - outcome.arrived_s
        for outcome in outcomes
        if outcome.first_token_s is not None and outcome.cached_tokens
    ]
    n_tokens, block_size = WAY_TOKENS + WAY_OWN_TOKENS, fit.engine.block_size
    n_own = n_tokens - WAY_TOKENS // block_size * block_size
    step_ps = fit.batch_ps(n_own) + fit.request_ps + fit.chunk_ps(n_own, n_tokens)
    return max(0.0, fmean(ttfts) - step_ps / PS_PER_MS / 1000)


@dataclass(frozen=True)
class Plan:
    """How long requests come, for which seeds, and what they are compared with."""

    loads: list[str]
    seeds: list[int]
    seconds: float
    busy_cores: float
    fit: Fit


def play_both(daemon: Daemon, plan: Plan, load: str, level: str, seed: int) -> Pair | str:
    """A pair, or why there is none."""
    rate, seconds = RATES[load][level], plan.seconds
    played = play(daemon, lambda: requests(load, rate, seconds, seed), plan.busy_cores)
    if played.disturbed:
        return f"{load} at {rate:g}/s, seed {seed}: {played.disturbed}"
    slow = slowness(daemon, plan.fit, played.feeding_cores)
    fit = slower(plan.fit, slow)
    way = way_s(daemon, played.feeding_cores, fit)
    outcomes = simulate(
        requests(load, rate, seconds, seed),
        fit=fit,
        gpus=2,
        config=SchedulerConfig(policy=POLICY),
        dispatch_delay_s=way,
    )
    real, simulated = (numbers(some, load, rate, POLICY, seed, fit) for some in (played.outcomes, outcomes))
    return Pair(load, level, real, simulated, played.others_cores, played.feeding_cores, slow, 1000 * way)


def run(plan: Plan, engine_args: list[str]) -> tuple[list[Pair], list[str]]:
    """Pairs, and why there are none of others."""
    pairs: list[Pair] = []
    left_out: list[str] = []
    blocks = KV_BLOCKS + 1
    with (
        tempfile.TemporaryDirectory() as workshop,
        serving(Path(workshop), policy=POLICY, kv_blocks=blocks, engine_args=engine_args) as it,
    ):
        for seed in plan.seeds:
            for load in plan.loads:
                for level in RATES[load]:
                    pair = play_both(it, plan, load, level, seed)
                    if isinstance(pair, Pair):
                        pairs.append(pair)
                        show(pair)
                    else:
                        left_out.append(pair)
    return pairs, left_out


def show(pair: Pair) -> None:
    real = pair.real
    print(
        f"{pair.load} {real.rate:g}/s seed {real.seed}: "
        f"TTFT {real.mean_ttft_s:.3f} s ({pair.off('mean_ttft_s'):+.0%}), "
        f"latency {real.mean_latency_s:.3f} s ({pair.off('mean_latency_s'):+.0%}), "
        f"hit {real.hit_ratio:.3f} ({pair.points_off:+.1f}), refused {real.refused}, others {pair.others_cores:.2f}, "
        f"feeding {pair.feeding_cores:.2f}, steps x {pair.slowness:.2f}, way {pair.way_ms:.1f} ms",
        file=sys.stderr,
    )


# --- the table ---


def seconds_of(pairs: list[Pair], name: str) -> list[str]:
    """Real and simulated medians, and how far off the simulation is."""
    offs = [pair.off(name) for pair in pairs]
    of_both = [median(getattr(getattr(pair, which), name) for pair in pairs) for which in ("real", "simulated")]
    return [*(f"{value:.3f}" for value in of_both), spread(offs, "{:+.0%}".format, WITHIN)]


def spread(values: list[float], shown: Callable[[float], str], within: float = inf) -> str:
    """The median of the seeds and their range; bold where it is too far off."""
    middle, ends = median(values), f" ({shown(min(values))} to {shown(max(values))})" if len(values) > 1 else ""
    return (shown(middle) if abs(middle) <= within else f"**{shown(middle)}**") + ends


def validation_table(pairs: list[Pair]) -> str:
    rows = []
    for load in RATES:
        for level in RATES[load]:
            some = [pair for pair in pairs if (pair.load, pair.level) == (load, level)]
            if not some:
                continue
            hits = [
                f"{median(100 * getattr(pair, which).hit_ratio for pair in some):.1f}"
                for which in ("real", "simulated")
            ]
            rows.append(
                [
                    load,
                    f"{some[0].real.rate:g} ({level})",
                    str(len(some)),
                    *seconds_of(some, "mean_ttft_s"),
                    *seconds_of(some, "mean_latency_s"),
                    *hits,
                    spread([pair.points_off for pair in some], "{:+.1f}".format, WITHIN_POINTS),
                    spread([pair.slowness for pair in some], "{:.2f}".format),
                    spread([pair.way_ms for pair in some], "{:.0f}".format),
                ]
            )
    measures = [
        f"{name}{which}" for name in ("TTFT, s", "latency, s", "hit, %") for which in ("", ": simulated", ": off")
    ]
    return table(["load", "req/s", "seeds", *measures, "steps took", "way, ms"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--loads", default=",".join(LOADS), help="with commas")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seconds", type=float, default=25.0, help="for how long requests come in each run")
    parser.add_argument("--busy", type=float, default=BUSY_CORES, help="cores that others may keep busy")
    parser.add_argument("--fit", default="cpu-demo", help="a calibration's name, or file")
    parser.add_argument(
        "--engine-args", default=ENGINE_ARGS, help="options for vLLM: --engine-args=--no-async-scheduling"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        loads=args.loads.split(","),
        seeds=list(range(1, args.seeds + 1)),
        seconds=args.seconds,
        busy_cores=args.busy,
        fit=small_fit(args.fit),
    )
    pairs, left_out = run(plan, args.engine_args.split())
    found = {"machine": machine(), "seconds": plan.seconds, "left_out": left_out, "pairs": pairs}
    dump(args.out / "validation.json", msgspec.to_builtins(found))
    lines = validation_table(pairs)
    lines += (
        f"\n\n{len(pairs)} runs of {plan.seconds:g} s on {machine()}. {len(left_out)} runs left out, since the machine "
    )
    lines += "stood still or others were busy in each of three tries; in the others, "
    lines += (
        f"{median(pair.others_cores for pair in pairs):.2f} cores were busy with other work. Steps took so many times "
    )
    lines += "what the calibration says, right after the run."
    print(lines)
    if args.write:
        fill({"validation": lines})


if __name__ == "__main__":
    main()

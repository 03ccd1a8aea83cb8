"""How fast the simulator is: requests like tool use's on 8 modelled GPUs, and on 512.

    .venv/bin/python bench/simulate.py             # 20,000 requests on 8 GPUs, 20,000 on 512
    .venv/bin/python bench/simulate.py --profile   # and which functions take the time (slower by half)

A request has 1,835 prompt tokens on average, of which 1,500 are shared by many, and 43 of an answer; GPUs get as many
as keep them busy. Prints, as JSON, the wall time, what share of it the machine (the daemon's own scheduler) takes, and
a few results, so that a change of behaviour is seen as well.
"""

import argparse
import cProfile
import gc
import json
import pstats
import sys
from collections.abc import Iterator
from time import perf_counter

import numpy as np

from preble.daemon.config import SchedulerConfig
from preble.daemon.flow.machine import Machine
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.fits import Fit, load_fit
from preble.daemon.sim.types import Piece, SimRequest
from preble.daemon.sim.world import simulate

RATE_PER_GPU = 4.75
TOOLS_PER_GPU = 25
SYSTEM_TOKENS, TOOL_TOKENS, QUESTION_TOKENS = 300, 1200, 335


def requests(n_requests: int, gpus: int) -> Iterator[SimRequest]:
    rng = np.random.default_rng(1)
    n_tools = TOOLS_PER_GPU * gpus
    now_s = 0.0
    for number in range(n_requests):
        now_s += rng.exponential(1 / (RATE_PER_GPU * gpus))
        tool = 1 + int(rng.integers(n_tools))
        question = max(1, round(rng.normal(QUESTION_TOKENS, 100)))
        yield SimRequest(
            request_id=RequestId(f"r{number}"),
            tenant=TenantName(f"t{number % 7}"),
            at_s=now_s,
            prompt=(Piece(0, SYSTEM_TOKENS), Piece(tool, TOOL_TOKENS), Piece(10**7 + number, question)),
            output_tokens=max(1, round(rng.normal(43, 16))),
            output_content=2 * 10**7 + number,
            max_output_tokens=256,
        )


class Timed(Machine):
    """Keeps the time that the machine takes."""

    seconds = 0.0

    def step(self, event, now_s):
        started_s = perf_counter()
        effects = super().step(event, now_s)
        Timed.seconds += perf_counter() - started_s
        return effects


def measure(fit: Fit, n_requests: int, gpus: int, policy: str) -> dict:
    Timed.seconds = 0.0
    gc.collect()
    started_s = perf_counter()
    outcomes = simulate(
        requests(n_requests, gpus),
        fit=fit,
        gpus=gpus,
        config=SchedulerConfig(policy=policy),
        progress=lambda done: print(f"\r{gpus} GPUs: {done:4.0%}", end="", file=sys.stderr),
        n_expected=n_requests,
    )
    wall_s = perf_counter() - started_s
    print(file=sys.stderr)
    answered = [outcome for outcome in outcomes if outcome.complete]
    latencies_s = np.array([outcome.ended_s - outcome.arrived_s for outcome in answered])
    return {
        "gpus": gpus,
        "requests": n_requests,
        "wall_s": round(wall_s, 2),
        "requests_per_s": round(n_requests / wall_s),
        "machine_share": round(Timed.seconds / wall_s, 3),
        "machine_us_per_request": round(1e6 * Timed.seconds / n_requests),
        "rest_us_per_request": round(1e6 * (wall_s - Timed.seconds) / n_requests),
        "simulated_s": round(max(outcome.ended_s for outcome in outcomes), 1),
        "answered": len(answered),
        "mean_latency_s": round(float(latencies_s.mean()), 3),
        "hit_ratio": round(sum(o.cached_tokens for o in answered) / sum(o.prompt_tokens for o in answered), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", default="a6000-mistral-7b")
    parser.add_argument("--policy", default="e2")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 512])
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    import preble.daemon.sim.world as world

    world.Machine = Timed
    profile = cProfile.Profile()
    if args.profile:
        profile.enable()
    fit = load_fit(args.fit)
    rows = [measure(fit, args.requests, gpus, args.policy) for gpus in args.gpus]
    profile.disable()
    print(json.dumps(rows, indent=2))
    if args.profile:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()

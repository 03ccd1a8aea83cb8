"""A tenant and a neighbour that floods, on two real CPU engines, with each kind of fairness.

    .venv/bin/python bench/fairness.py OUT            # about fifteen minutes
    .venv/bin/python bench/fairness.py OUT --write    # and puts the table into docs/fairness.md

The tenant sends its few requests alone, and again while a flooder sends several times what the engines can do. Both
send prompts of the workload `tools`, each with tools of its own. Each kind of fairness has a daemon with two engines,
idle but while it is its turn, in an order drawn for each seed. What was disturbed is played again. OUT gets
`fairness.json`. `--kinds none d2lpm --seconds 40` has fewer kinds, and more requests of each.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from heapq import merge
from pathlib import Path
from statistics import median

import numpy as np
from cpu_engines import Daemon, dump, machine, play, serving_each
from cpu_loads import KV_BLOCKS, fill, requests, table
from cpu_watch import BUSY_CORES

from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.types import Outcome, SimRequest

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/fairness.md"
SHORT_STEP_TOKENS = 512
KINDS = {
    "none": {"fairness": "none"},
    "vtc": {"fairness": "vtc"},
    "d2lpm": {"fairness": "d2lpm"},
    "d2lpm-short-steps": {"fairness": "d2lpm", "step_tokens": SHORT_STEP_TOKENS},
}
OWN_RATE, FLOOD_RATE = 3.0, 40.0
"""Requests per second; the engines manage about twenty."""
PERCENTILES = (50, 99)
OWN, FLOODER = TenantName("neighbour"), TenantName("flooder")


@dataclass(frozen=True)
class Numbers:
    """One run. Times in seconds are the neighbour's."""

    kind: str
    seed: int
    flooded: bool
    ttfts_s: list[float]
    hit_ratio: float
    """Of all prompt tokens, the flooder's too."""
    served_per_s: float
    """Of all requests, until the last was answered."""


def load(tenant: TenantName, rate: float, seconds: float, seed: int) -> list[SimRequest]:
    return [
        replace(one, tenant=tenant, request_id=RequestId(f"{tenant}-{one.request_id}"))
        for one in requests("tools", rate, seconds, seed)
    ]


def numbers(outcomes: list[Outcome], kind: str, seed: int, *, flooded: bool) -> Numbers:
    own = [one for one in outcomes if one.tenant == OWN and one.first_token_s is not None]
    ttfts_s = [one.first_token_s - one.arrived_s for one in own]
    prompt_tokens = sum(one.prompt_tokens for one in outcomes)
    return Numbers(
        kind=kind,
        seed=seed,
        flooded=flooded,
        ttfts_s=ttfts_s,
        hit_ratio=sum(one.cached_tokens for one in outcomes) / prompt_tokens,
        served_per_s=sum(one.complete for one in outcomes) / max(one.ended_s for one in outcomes),
    )


def of_seed(seed: int, seconds: float, busy_cores: float, daemons: dict[str, Daemon]) -> Iterator[Numbers | str]:
    """Alone and flooded, with each kind of fairness; or why there is none."""
    own, flood = load(OWN, OWN_RATE, seconds, seed), load(FLOODER, FLOOD_RATE, seconds, seed + 1000)
    both = list(merge(own, flood, key=lambda one: one.at_s))
    for kind in random.Random(seed).sample(list(daemons), len(daemons)):
        for flooded, sent in ((False, own), (True, both)):
            played = play(daemons[kind], lambda sent=sent: sent, busy_cores)
            if played.disturbed:
                yield f"{kind}, seed {seed}: {played.disturbed}"
            else:
                yield numbers(played.outcomes, kind, seed, flooded=flooded)


def fairness_table(done: list[Numbers]) -> str:
    """Of the seeds in which both runs were undisturbed: percentiles of all their requests, medians of the rest.

    One seed's p99 is nearly the longest of its requests; the range of the seeds' own ratios is beside that of all.
    """
    rows = []
    by_run = {(one.kind, one.seed, one.flooded): one for one in done}
    for kind in KINDS:
        alone = {seed: one for (of, seed, flooded), one in by_run.items() if of == kind and not flooded}
        both = [(one, by_run[kind, seed, True]) for seed, one in alone.items() if (kind, seed, True) in by_run]
        if both:
            pooled = [[ttft_s for one in runs for ttft_s in one.ttfts_s] for runs in zip(*both, strict=True)]
            ttfts = [f"{np.percentile(times, which):.2f}" for which in PERCENTILES for times in pooled]
            each = [_p99_ratio(own.ttfts_s, flooded.ttfts_s) for own, flooded in both]
            ratio = f"{_p99_ratio(*pooled):.1f} ({min(each):.1f}-{max(each):.1f})"
            hit_ratio = median(flooded.hit_ratio for _, flooded in both)
            served_per_s = median(flooded.served_per_s for _, flooded in both)
            rows.append([kind, *ttfts, ratio, f"{hit_ratio:.3f}", f"{served_per_s:.1f}"])
    measures = [f"TTFT p{which}, s: {when}" for which in PERCENTILES for when in ("alone", "flooded")]
    return table(["", *measures, "p99 ratio", "hit ratio, flooded", "served, req/s, flooded"], rows)


def _p99_ratio(alone_s: list[float], flooded_s: list[float]) -> float:
    return float(np.percentile(flooded_s, 99) / np.percentile(alone_s, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long requests come in each run")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of fairness")
    parser.add_argument("--busy", type=float, default=BUSY_CORES, help="cores that others may keep busy")
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    done: list[Numbers] = []
    left_out: list[str] = []
    ways = {kind: {"kv_blocks": KV_BLOCKS + 1, **KINDS[kind]} for kind in args.kinds}
    with tempfile.TemporaryDirectory() as workshop, serving_each(Path(workshop), ways) as daemons:
        for seed in range(1, args.seeds + 1):
            for each in of_seed(seed, args.seconds, args.busy, daemons):
                print(each, file=sys.stderr)
                (done if isinstance(each, Numbers) else left_out).append(each)
    dump(
        args.out / "fairness.json", {"machine": machine(), "left_out": left_out, "done": [asdict(one) for one in done]}
    )
    told = f"Of {args.seeds} seeds of {args.seconds:g} s, on {machine()}; {len(left_out)} runs left out."
    text = f"{fairness_table(done)}\n\n{told}"
    print(text)
    if args.write:
        fill({"engines": text}, DOCUMENT)


if __name__ == "__main__":
    main()

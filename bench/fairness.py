"""A tenant and a neighbour that floods, on two real CPU engines, with each kind of fairness.

    .venv/bin/python bench/fairness.py OUT            # about eight minutes
    .venv/bin/python bench/fairness.py OUT --write    # and puts the table into docs/fairness.md

The tenant sends its few requests alone, and again while a flooder sends several times what the engines can do. Both
send prompts of the workload `tools`, each with tools of its own. For every seed each kind of fairness gets a fresh
daemon with fresh engines, in an order drawn for that seed. What was disturbed is played again. OUT gets
`fairness.json`.
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
from cpu_engines import dump, machine, play, serving
from cpu_loads import KV_BLOCKS, fill, requests, table
from cpu_watch import BUSY_CORES

from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.types import Outcome, SimRequest

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/fairness.md"
KINDS = ("none", "vtc", "d2lpm")
OWN_RATE, FLOOD_RATE = 3.0, 40.0
"""Requests per second; the engines manage about twenty."""
OWN, FLOODER = TenantName("neighbour"), TenantName("flooder")


@dataclass(frozen=True)
class Numbers:
    """One run. Times in seconds are the neighbour's."""

    fairness: str
    seed: int
    flooded: bool
    ttft_p50_s: float
    ttft_p99_s: float
    own_requests: int
    hit_ratio: float
    """Of all prompt tokens, the flooder's too."""
    served_per_s: float
    """Of all requests, until the last was answered."""


def load(tenant: TenantName, rate: float, seconds: float, seed: int) -> list[SimRequest]:
    return [
        replace(one, tenant=tenant, request_id=RequestId(f"{tenant}-{one.request_id}"))
        for one in requests("tools", rate, seconds, seed)
    ]


def numbers(outcomes: list[Outcome], fairness: str, seed: int, *, flooded: bool) -> Numbers:
    own = [one for one in outcomes if one.tenant == OWN and one.first_token_s is not None]
    ttfts_s = [one.first_token_s - one.arrived_s for one in own]
    prompt_tokens = sum(one.prompt_tokens for one in outcomes)
    return Numbers(
        fairness=fairness,
        seed=seed,
        flooded=flooded,
        ttft_p50_s=float(np.percentile(ttfts_s, 50)),
        ttft_p99_s=float(np.percentile(ttfts_s, 99)),
        own_requests=len(own),
        hit_ratio=sum(one.cached_tokens for one in outcomes) / prompt_tokens,
        served_per_s=sum(one.complete for one in outcomes) / max(one.ended_s for one in outcomes),
    )


def of_seed(seed: int, seconds: float, busy_cores: float, workshop: Path) -> Iterator[Numbers | str]:
    """Alone and flooded, with each kind of fairness; or why there is none."""
    own, flood = load(OWN, OWN_RATE, seconds, seed), load(FLOODER, FLOOD_RATE, seconds, seed + 1000)
    both = list(merge(own, flood, key=lambda one: one.at_s))
    for fairness in random.Random(seed).sample(KINDS, len(KINDS)):
        with serving(workshop, fairness=fairness, kv_blocks=KV_BLOCKS + 1) as daemon:
            for flooded, sent in ((False, own), (True, both)):
                played = play(daemon, lambda sent=sent: sent, busy_cores)
                if played.disturbed:
                    yield f"{fairness}, seed {seed}: {played.disturbed}"
                else:
                    yield numbers(played.outcomes, fairness, seed, flooded=flooded)


def fairness_table(done: list[Numbers]) -> str:
    rows = []
    for flooded in (False, True):
        for fairness in KINDS:
            some = [one for one in done if (one.fairness, one.flooded) == (fairness, flooded)]
            if some:
                rows.append(
                    [
                        f"{fairness}, {'flooded' if flooded else 'alone'}",
                        *(
                            f"{median(getattr(one, name) for one in some):{form}}"
                            for name, form in (
                                ("ttft_p50_s", ".2f"), ("ttft_p99_s", ".2f"), ("hit_ratio", ".3f"),
                                ("served_per_s", ".1f"),
                            )
                        ),
                    ]
                )  # fmt: skip
    return table(["", "TTFT p50, s", "TTFT p99, s", "hit ratio", "served, req/s"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long requests come in each run")
    parser.add_argument("--busy", type=float, default=BUSY_CORES, help="cores that others may keep busy")
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    done: list[Numbers] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as workshop:
        for seed in range(1, args.seeds + 1):
            for each in of_seed(seed, args.seconds, args.busy, Path(workshop)):
                print(each, file=sys.stderr)
                (done if isinstance(each, Numbers) else left_out).append(each)
    dump(
        args.out / "fairness.json", {"machine": machine(), "left_out": left_out, "done": [asdict(one) for one in done]}
    )
    told = f"Medians of {args.seeds} seeds of {args.seconds:g} s, on {machine()}; {len(left_out)} runs left out."
    text = f"{fairness_table(done)}\n\n{told}"
    print(text)
    if args.write:
        fill({"engines": text}, DOCUMENT)


if __name__ == "__main__":
    main()

"""What a flood does to a neighbour, by the shapes of their prompts, in the simulator.

    .venv/bin/python bench/neighbours.py            # about fifteen minutes of two cores
    .venv/bin/python bench/neighbours.py --write    # and puts the table into docs/fairness.md

The neighbour sends a tenth of what the GPUs manage at the knee, the flooder twice that knee. TTFT is the neighbour's.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from heapq import merge
from pathlib import Path
from statistics import mean

import numpy as np
from cpu_loads import fill, table
from evaluation.points import RATES

from preble.daemon.config import FairnessName, SchedulerConfig
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.fits import load_fit
from preble.daemon.sim.types import SimRequest
from preble.daemon.sim.workloads import WORKLOADS
from preble.daemon.sim.world import simulate

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/fairness.md"
GPUS = 4
WAY_S = 0.005
"""A request's, to its engine."""
SEEDS = (1, 3, 5)
SHARE, FLOOD = 0.1, 2.0
SECONDS = {"tool": 100, "programming": 400, "video": 600, "longdoc": 400}
PAIRS = (
    ("tool", "tool"),
    ("tool", "programming"),
    ("tool", "video"),
    ("tool", "longdoc"),
    ("video", "tool"),
    ("video", "video"),
    ("longdoc", "longdoc"),
)
OWN, FLOODER = TenantName("neighbour"), TenantName("flooder")

Case = tuple[str, str | None, FairnessName, int]
"""The neighbour's workload, the flooder's, fairness, and the seed."""


def load(tenant: TenantName, workload: str, of_knee: float, seconds: float, seed: int) -> Iterator[SimRequest]:
    rate = RATES[workload][-2] * GPUS * of_knee
    demand = Demand(requests=int(rate * seconds), rate=rate, seed=seed, n_gpus=GPUS)
    for one in WORKLOADS[workload].generate(demand):
        yield replace(one, tenant=tenant, request_id=RequestId(f"{tenant}-{one.request_id}"))


def p99_ttft_s(case: Case) -> float:
    own, flood, fairness, seed = case
    seconds = SECONDS[own]
    loads = [load(OWN, own, SHARE, 1.3 * seconds, seed)]
    if flood is not None:
        loads.append(load(FLOODER, flood, FLOOD, seconds, seed + 1))
    outcomes = simulate(
        merge(*loads, key=lambda one: one.at_s),
        fit=load_fit("a6000-mistral-7b"),
        gpus=GPUS,
        config=SchedulerConfig(fairness=fairness),
        dispatch_delay_s=WAY_S,
    )
    answered = [one for one in outcomes if one.tenant == OWN and one.first_token_s is not None]
    return float(np.percentile([one.first_token_s - one.arrived_s for one in answered], 99))


def rows(found: dict[Case, float]) -> Iterator[list[str]]:
    for own, flood in PAIRS:
        alone, flooded, plain = (
            [found[own, whose, fairness, seed] for seed in SEEDS]
            for whose, fairness in ((None, "d2lpm"), (flood, "d2lpm"), (flood, "none"))
        )
        ratio = mean(some / other for some, other in zip(flooded, alone, strict=True))
        yield [own, flood, f"{mean(alone):.2f}", f"{mean(flooded):.2f}", f"{ratio:.1f}", f"{mean(plain):.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    args = parser.parse_args()
    cases: list[Case] = []
    for own, flood in PAIRS:
        for seed in SEEDS:
            cases += [(own, None, "d2lpm", seed), (own, flood, "d2lpm", seed), (own, flood, "none", seed)]
    cases = list(dict.fromkeys(cases))
    with ProcessPoolExecutor(args.processes) as pool:
        found = dict(zip(cases, pool.map(p99_ttft_s, cases), strict=True))
    lines = table(["neighbour", "flooder", "alone, s", "flooded, s", "ratio", "with none, s"], rows(found))
    print(lines)
    if args.write:
        fill({"neighbours": lines}, DOCUMENT)


if __name__ == "__main__":
    main()

"""What a flood does to its neighbours, by the shapes of their prompts, in the simulator.

    .venv/bin/python bench/neighbours.py            # about fifteen minutes of three cores
    .venv/bin/python bench/neighbours.py --write    # and puts the tables into docs/fairness.md

A lone neighbour sends a tenth of what the GPUs manage at the knee, the flooder twice that knee; what they send has
nothing in common. The crowd is the workload `noisy_neighbour`. TTFT is that of whoever is not the flooder; served are
all requests answered until the flood ended, as a share of those without fairness. Engines are as the calibration
has them, and with steps of half as many tokens.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from statistics import mean

import msgspec
import numpy as np
from cpu_loads import fill, table
from evaluation.points import RATES

from preble.daemon.config import FairnessName, SchedulerConfig
from preble.daemon.ids import RequestId, TenantName
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.fits import Fit, load_fit
from preble.daemon.sim.oneshot import FLOODER
from preble.daemon.sim.types import SimRequest
from preble.daemon.sim.workloads import WORKLOADS
from preble.daemon.sim.world import simulate
from preble.daemon.wire.percents import percent

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/fairness.md"
FIT = load_fit("a6000-mistral-7b")
SHORT_STEP_TOKENS = 1024
GPUS = 4
WAY_S = 0.005
"""A request's, to its engine."""
SEEDS = (1, 3, 5)
SHARE, FLOOD = 0.1, 2.0
SECONDS = {"tool": 300, "programming": 400, "video": 600, "longdoc": 400}
CROWD = "noisy_neighbour"
CROWD_RATE, CROWD_SHARE, CROWD_SECONDS = 30.0, 0.2, 80
PAIRS = (
    (CROWD, CROWD),
    ("tool", "tool"),
    ("tool", "programming"),
    ("tool", "video"),
    ("tool", "longdoc"),
    ("video", "tool"),
    ("video", "video"),
    ("longdoc", "longdoc"),
)
OWN = TenantName("neighbour")


@dataclass(frozen=True)
class Case:
    """One run; without a `flood` the neighbours are alone."""

    own: str
    flood: str | None
    fairness: FairnessName
    seed: int
    short: bool = False

    @property
    def fit(self) -> Fit:
        """Of its engines."""
        if not self.short:
            return FIT
        engine = msgspec.structs.replace(FIT.engine, max_num_batched_tokens=SHORT_STEP_TOKENS)
        return msgspec.structs.replace(FIT, engine=engine)

    @property
    def seconds(self) -> float:
        """For how long a flood comes."""
        return CROWD_SECONDS if self.own == CROWD else SECONDS[self.own]

    def requests(self) -> Iterator[SimRequest]:
        """In the order of their arrival."""
        if self.own == CROWD:
            rate = CROWD_RATE * (1 if self.flood else CROWD_SHARE)
            demand = Demand(requests=int(rate * self.seconds), rate=rate, seed=self.seed, n_gpus=GPUS)
            return WORKLOADS[CROWD].generate(replace(demand, flood_share=1 - CROWD_SHARE if self.flood else 0.0))
        loads = [load(OWN, self.own, SHARE, 1.3 * self.seconds, self.seed)]
        if self.flood is not None:
            loads.append(load(FLOODER, self.flood, FLOOD, self.seconds, self.seed + 1))
        return merge(*loads, key=lambda one: one.at_s)


def load(tenant: TenantName, workload: str, of_knee: float, seconds: float, seed: int) -> Iterator[SimRequest]:
    rate = RATES[workload][-2] * GPUS * of_knee
    demand = Demand(requests=int(rate * seconds), rate=rate, seed=seed, n_gpus=GPUS)
    apart = int(tenant == FLOODER) << 60
    for one in WORKLOADS[workload].generate(demand):
        yield replace(
            one,
            tenant=tenant,
            request_id=RequestId(f"{tenant}-{one.request_id}"),
            prompt=tuple(replace(piece, content=piece.content | apart) for piece in one.prompt),
            output_content=one.output_content | apart,
        )


@dataclass(frozen=True)
class Found:
    """What became of a case."""

    p99_ttft_s: float
    served: int


def play(case: Case) -> Found:
    outcomes = list(
        simulate(
            case.requests(),
            fit=case.fit,
            gpus=GPUS,
            config=SchedulerConfig(fairness=case.fairness),
            dispatch_delay_s=WAY_S,
        )
    )
    ttfts_s = [
        one.first_token_s - one.arrived_s for one in outcomes if one.tenant != FLOODER and one.first_token_s is not None
    ]
    return Found(
        p99_ttft_s=float(np.percentile(ttfts_s, 99)),
        served=sum(one.complete and one.ended_s <= case.seconds for one in outcomes),
    )


def cases() -> Iterator[Case]:
    for own, flood in PAIRS:
        for seed in SEEDS:
            yield Case(own, flood, "none", seed)
            for short in (False, True):
                yield Case(own, None, "d2lpm", seed, short)
                yield Case(own, flood, "d2lpm", seed, short)


def rows(found: dict[Case, Found]) -> Iterator[list[str]]:
    for own, flood in PAIRS:
        unfair = [found[Case(own, flood, "none", seed)] for seed in SEEDS]
        row = ["seven small" if own == CROWD else own, "small" if own == CROWD else flood]
        for short in (False, True):
            alone = [found[Case(own, None, "d2lpm", seed, short)] for seed in SEEDS]
            flooded = [found[Case(own, flood, "d2lpm", seed, short)] for seed in SEEDS]
            ratio = mean(some.p99_ttft_s / other.p99_ttft_s for some, other in zip(flooded, alone, strict=True))
            served = sum(one.served for one in flooded) / sum(one.served for one in unfair)
            row += [*(f"{mean(one.p99_ttft_s for one in some):.2f}" for some in (alone, flooded)), f"{ratio:.1f}"]
            row.append(percent(served))
        yield [*row, f"{mean(one.p99_ttft_s for one in unfair):.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    args = parser.parse_args()
    wanted = list(dict.fromkeys(cases()))
    with ProcessPoolExecutor(args.processes) as pool:
        found = dict(zip(wanted, pool.map(play, wanted), strict=True))
    whats = ("alone, s", "flooded, s", "ratio", "served")
    measures = [f"{what}{steps}" for steps in ("", ", short steps") for what in whats]
    lines = table(["neighbour", "flooder", *measures, "with none, s"], rows(found))
    print(lines)
    if args.write:
        fill({"neighbours": lines}, DOCUMENT)


if __name__ == "__main__":
    main()

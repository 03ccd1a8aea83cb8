"""What is run: every point of docs/evaluation.md."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = json.loads((ROOT / "docs/evaluation/published.json").read_text())["curves"]
"""Of the paper's Figure 3."""
POLICIES = ("e2", "e2_paper", "prefix_affinity", "least_loaded", "round_robin")
PAPERS = ("tool", "embodied", "programming", "video", "longdoc")
WORKLOADS = (*PAPERS, "agent", "noisy_neighbour")
SWITCHES = ("rebalance", "decode_balance", "cached_first", "move_waiting")

# For each workload, rates per GPU from low load to overload; the second last is the knee.
RATES = {
    "tool": (1.5, 7.5, 12.0),
    "embodied": (1.5, 7.5, 12.5),
    "programming": (0.5, 3.0, 5.0),
    "video": (0.25, 0.75, 1.75),
    "longdoc": (0.1, 0.3, 0.8),
    "agent": (2.5, 20.0, 40.0),
    "noisy_neighbour": (1.0, 4.5, 6.0),
}
# Requests of a run, by GPUs. Sessions cost most to simulate, and their runs are long: fewer seeds.
REQUESTS = {
    "tool": {2: 3900, 4: 4000, 8: 4800},
    "embodied": {2: 9600, 4: 19200, 8: 38400},
    "programming": {2: 1600, 4: 1600, 8: 1600},
    "video": {2: 1200, 4: 1200, 8: 1600},
    "longdoc": {2: 540, 4: 540, 8: 800},
    "agent": {2: 10000, 4: 10000, 8: 12000},
    "noisy_neighbour": {2: 1500, 4: 1500, 8: 2000},
}
SEEDS = (1, 2, 3)
ABLATION_GPUS = {"embodied": 2, "agent": 2}
# Fixed numbers of requests that the paper's runs seem to have had; see `run_lengths`.
PAPER_REQUESTS = {"video": {2: 250, 4: 830}, "longdoc": {2: 75, 4: 190}}
# From the reference's configurations: seconds of load, and requests per request per second.
PAPER_SECONDS = {"tool": 300, "programming": 625}
CPU_S_PER_1000 = {"embodied": 0.9, "video": 0.9, "longdoc": 0.9, "agent": 0.6}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run."""

    workload: str
    gpus: int
    requests: int
    rate: float
    policy: str = "e2"
    seed: int = 1
    arrivals: str = "poisson"
    off: tuple[str, ...] = ()
    """Switches of [scheduler] that are off."""

    @property
    def key(self) -> str:
        return json.dumps(asdict(self))

    @property
    def cost(self) -> float:
        """About how many seconds it takes."""
        return self.requests * (CPU_S_PER_1000.get(self.workload, 0.4) + self.gpus / 200) / 1000


def seeds_of(workload: str, gpus: int) -> tuple[int, ...]:
    if workload == "embodied":
        return SEEDS[:1]
    if workload == "agent":
        return SEEDS[:2] if gpus == 2 else SEEDS[:1]
    return SEEDS


def rates_of(workload: str, gpus: int) -> tuple[float, ...]:
    """Per GPU."""
    rates = RATES[workload]
    if gpus > 2 and workload in ("embodied", "agent"):
        return rates[1:] if gpus == 4 else rates[1:2]
    return rates[1:] if gpus == 8 else rates


def grid(workload: str, gpus: int, rate: float, policy: str, seed: int) -> Point:
    """A point of section 3, at a rate per GPU."""
    requests = REQUESTS[workload][gpus]
    if workload == "agent" and rate == RATES[workload][0]:
        requests //= 4
    return Point(workload=workload, gpus=gpus, requests=requests, rate=round(rate * gpus, 4), policy=policy, seed=seed)


def grids() -> Iterator[Point]:
    for workload in WORKLOADS:
        for gpus in (2, 4, 8):
            for rate in rates_of(workload, gpus):
                for seed in seeds_of(workload, gpus):
                    for policy in POLICIES:
                        yield grid(workload, gpus, rate, policy, seed)


def paper_length(workload: str, gpus: int, rate: float) -> int | None:
    if workload in PAPER_REQUESTS:
        return PAPER_REQUESTS[workload][gpus]
    return round(PAPER_SECONDS[workload] * rate) if workload in PAPER_SECONDS else None


def paper_seeds(workload: str) -> tuple[int, ...]:
    return SEEDS if workload in PAPER_REQUESTS else SEEDS[:1]


def papers() -> Iterator[Point]:
    """Section 2, with the paper's run lengths."""
    for workload in PAPERS:
        for gpus in (2, 4):
            for rate, _ in PUBLISHED[workload][str(gpus)]["mean"]["Preble"]:
                requests = paper_length(workload, gpus, rate)
                if requests is None:
                    continue
                for seed in paper_seeds(workload):
                    for policy in POLICIES:
                        yield Point(
                            workload=workload, gpus=gpus, requests=requests, rate=rate, policy=policy, seed=seed
                        )


STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("placement alone", "e2", SWITCHES),
    ("+ rebalance", "e2", SWITCHES[1:]),
    ("+ decode_balance", "e2", SWITCHES[2:]),
    ("+ cached_first", "e2", SWITCHES[3:]),
    ("+ move_waiting = e2", "e2", ()),
    ("e2 - rebalance", "e2", ("rebalance",)),
    ("e2 - decode_balance", "e2", ("decode_balance",)),
    ("e2 - cached_first", "e2", ("cached_first",)),
    ("e2_paper - rebalance", "e2_paper", ("rebalance",)),
    ("e2_paper - replicate", "e2_paper", ("replicate",)),
    ("e2_paper", "e2_paper", ()),
)


def ablation(workload: str, policy: str, off: tuple[str, ...], seed: int) -> Point:
    gpus = ABLATION_GPUS.get(workload, 4)
    rate = RATES[workload][-1] if workload == "agent" else RATES[workload][-2]
    return replace(grid(workload, gpus, rate, policy, seed), off=off)


def ablation_seeds(workload: str) -> tuple[int, ...]:
    return SEEDS[:1] if workload in ABLATION_GPUS else SEEDS


def ablations() -> Iterator[Point]:
    for workload in WORKLOADS:
        for seed in ablation_seeds(workload):
            for _, policy, off in STEPS:
                yield ablation(workload, policy, off, seed)


def bursts(workload: str, policy: str, seed: int) -> Point:
    return replace(grid(workload, 4, RATES[workload][-2], policy, seed), arrivals="azure")


LARGE = (
    Point(workload="tool", gpus=64, requests=20_000, rate=4.5 * 64),
    Point(workload="tool", gpus=512, requests=20_000, rate=4.5 * 512),
)
TRACE_GPUS = (8, 16)


def mooncake(gpus: int, policy: str) -> Point:
    return Point(workload="mooncake", gpus=gpus, requests=3993, rate=0.0, policy=policy, arrivals="trace")


def oracle(workload: str, gpus: int, seed: int) -> Point:
    return replace(grid(workload, gpus, RATES[workload][-2], "e2", seed), policy="oracle")


def plan(with_trace: bool) -> Iterator[Point]:
    yield from grids()
    yield from papers()
    yield from ablations()
    for workload in WORKLOADS:
        for gpus in (2, 4, 8):
            for seed in seeds_of(workload, gpus):
                yield oracle(workload, gpus, seed)
    for workload in ("tool", "video"):
        for seed in SEEDS:
            for policy in POLICIES:
                yield bursts(workload, policy, seed)
    yield from LARGE
    if with_trace:
        for gpus in TRACE_GPUS:
            for policy in POLICIES:
                yield mooncake(gpus, policy)

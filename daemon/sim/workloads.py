"""The workloads that a simulation can be asked for, by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from preble.daemon.sim.demand import Demand
from preble.daemon.sim.oneshot import longdoc, noisy_neighbour, programming, tool, video
from preble.daemon.sim.sessions import agent, embodied
from preble.daemon.sim.types import SimRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A kind of requests, and how much of it makes sense if nobody says."""

    generate: Callable[[Demand], Iterator[SimRequest]]
    """First requests in the order of their arrival; later ones of a session hang on its first."""
    requests_per_gpu: int
    """Enough that most items are asked for as often as in the paper's Table 1, and that sessions are under way."""
    rate_per_gpu: float
    """Requests per second that keep one GPU of the paper's smaller kind busy."""


WORKLOADS: Mapping[str, Workload] = {
    "tool": Workload(generate=tool, requests_per_gpu=3900, rate_per_gpu=4.5),
    "embodied": Workload(generate=embodied, requests_per_gpu=4800, rate_per_gpu=4.5),
    "programming": Workload(generate=programming, requests_per_gpu=800, rate_per_gpu=1.0),
    "video": Workload(generate=video, requests_per_gpu=1000, rate_per_gpu=1.0),
    "longdoc": Workload(generate=longdoc, requests_per_gpu=270, rate_per_gpu=0.3),
    "agent": Workload(generate=agent, requests_per_gpu=3000, rate_per_gpu=5.0),
    "noisy_neighbour": Workload(generate=noisy_neighbour, requests_per_gpu=1500, rate_per_gpu=4.0),
}

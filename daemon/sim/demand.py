"""What a workload is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preble.daemon.ids import TenantName
from preble.daemon.sim.arrivals import AZURE_CHAT, Arrivals, Bursts, times_s
from preble.daemon.sim.draws import Popularity, stream

DEFAULT_TENANT = TenantName("default")
FLOOD_SHARE = 0.75

_TIMES, _SHAPE, _DRAWS, _SESSIONS = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How many requests, how fast, and by which chance. The rate changes when requests come, never what they are."""

    requests: int
    rate: float
    """Requests per second, all tenants together."""
    seed: int
    n_gpus: int = 2
    """The paper has more tools and more agents for more GPUs, so that a cache's share of them stays the same."""
    arrivals: Arrivals = "poisson"
    popularity: Popularity = "measured"
    """How often each tool is asked for; the other workloads have no choice."""
    items: int | None = None
    """How many tools there are, agents play, or problems, videos or documents are asked about at a time."""
    flood_share: float = FLOOD_SHARE
    """The flooding neighbour's share of the requests; 0 leaves the others as they are without it."""

    def times_s(self, bursts: Bursts = AZURE_CHAT, per_arrival: float = 1.0) -> Iterator[float]:
        """When requests arrive, or sessions of `per_arrival` requests in the mean."""
        return times_s(self.arrivals, self.rate / per_arrival, stream(self.seed, _TIMES), bursts)

    def shape_rng(self) -> np.random.Generator:
        """For what is fixed at the start, such as how long each tool's instructions are."""
        return stream(self.seed, _SHAPE)

    def draw_rng(self) -> np.random.Generator:
        """For one request after the other."""
        return stream(self.seed, _DRAWS)

    def session_rng(self, session: int) -> np.random.Generator:
        """For one session, whose steps are drawn whenever a simulation gets to them."""
        return stream(self.seed, _SESSIONS, session)

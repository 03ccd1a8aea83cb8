"""When requests arrive: endless gaps between them, in seconds, with a mean of one over the rate.

Azure's traces hold no prompts and are not ours to ship, so bursts are made by a process that has what the Preble paper
(appendix A.6) states of them. The paper gives a rate and a mean gap that do not agree: chat 5 req/s and 118 ms, code
7 req/s and 63 ms. Both hold if the stated mean is that of gaps within bursts and the rate is that of the whole. So a
gap is exponential with the stated mean, or, about once in 55 gaps, a pause that brings the whole to the stated rate.
Pauses are Pareto with exponent 1.1 (in as many gaps as such a trace has, one or two then are as long as its longest)
from 1 s to the longest stated gap, 217 s; no gap is below the shortest stated one, 2 us. Gaps are then stretched or
squeezed so that their mean fits the rate that is asked for. Pauses are rare and long: the rate of a short run may be
far from it, and seeds differ much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Arrivals = Literal["poisson", "azure", "constant"]
ARRIVALS: tuple[Arrivals, ...] = get_args(Arrivals)


@dataclass(frozen=True, slots=True)
class Bursts:
    """A trace as the paper describes it."""

    rate: float
    mean_gap_s: float
    """Of gaps within a burst."""

    @property
    def pause_share(self) -> float:
        """How many of the gaps are pauses, so that the whole comes to the rate."""
        return (1 / self.rate - self.mean_gap_s) / (MEAN_PAUSE_S - self.mean_gap_s)


AZURE_CHAT = Bursts(rate=5, mean_gap_s=0.118)
AZURE_CODE = Bursts(rate=7, mean_gap_s=0.063)
SHORTEST_GAP_S = 2e-6
SHORTEST_PAUSE_S = 1.0
LONGEST_GAP_S = 217.0
_TAIL = 1.1
_RANGE = SHORTEST_PAUSE_S / LONGEST_GAP_S
_CUT: float = 1 - _RANGE**_TAIL  # the share of an unbounded Pareto's pauses that is kept
MEAN_PAUSE_S: float = SHORTEST_PAUSE_S * _TAIL / (_TAIL - 1) * (1 - _RANGE ** (_TAIL - 1)) / _CUT


def gaps_s(arrivals: Arrivals, rate: float, rng: np.random.Generator, bursts: Bursts = AZURE_CHAT) -> Iterator[float]:
    """Gaps before the first request, the second and so on. For one generator's state, twice the rate halves each."""
    match arrivals:
        case "poisson":
            while True:
                yield rng.exponential() / rate
        case "constant":
            while True:
                yield 1 / rate
        case "azure":
            squeeze = bursts.rate / rate
            while True:
                yield _azure_gap_s(bursts, rng) * squeeze


def _azure_gap_s(bursts: Bursts, rng: np.random.Generator) -> float:
    if rng.random() < bursts.pause_share:
        return float(SHORTEST_PAUSE_S * (1 - _CUT * rng.random()) ** (-1 / _TAIL))
    return float(max(rng.exponential(bursts.mean_gap_s), SHORTEST_GAP_S))


def times_s(arrivals: Arrivals, rate: float, rng: np.random.Generator, bursts: Bursts = AZURE_CHAT) -> Iterator[float]:
    """Times of arrival, from the start."""
    now_s = 0.0
    for gap_s in gaps_s(arrivals, rate, rng, bursts):
        now_s += gap_s
        yield now_s

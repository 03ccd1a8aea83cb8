"""How fairly tenants were served while they wanted more than they got: Jain's index, and the greatest gap of service.

Only *backlogged* tenants are compared, those of which some request waited all the time: who asks for little gets
little, and that is not unfair. Time is cut into spans of `SPAN_S`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preble.daemon.ids import TenantName
from preble.daemon.sim.types import Outcome
from preble.daemon.tenancy.standing import jain_index, service_gap

SPAN_S = 5.0

Floats = npt.NDArray[np.float64]


class Fairness(NamedTuple):
    """Of one run. None where no two tenants were ever backlogged at once."""

    jain: float | None
    """1: all have the same service for their weight; 1/n: one of n has everything. Mean over spans."""
    gap_s: float | None
    """Of two tenants backlogged all along, how much more service for its weight one got than the other, at most."""


def fairness(
    outcomes: Sequence[Outcome], service_s: Callable[[Outcome], float], weights: Mapping[TenantName, float]
) -> Fairness:
    """`service_s` is the GPU time that a request that was served caused; a weight that is not given is 1."""
    end_s = max((outcome.ended_s for outcome in outcomes), default=0.0)
    n_spans = int(end_s / SPAN_S)
    tenants = sorted({outcome.tenant for outcome in outcomes})
    served = {tenant: np.zeros(n_spans) for tenant in tenants}
    for outcome in outcomes:
        if outcome.complete and outcome.dispatched_s is not None:
            share = _overlap(outcome.dispatched_s, outcome.ended_s, n_spans)
            served[outcome.tenant] += share * service_s(outcome) / weights.get(outcome.tenant, 1.0)
    waited = {tenant: _backlogged([one for one in outcomes if one.tenant == tenant], n_spans) for tenant in tenants}
    gap_s = service_gap(
        {tenant: spans.tolist() for tenant, spans in served.items()},
        {tenant: spans.tolist() for tenant, spans in waited.items()},
    )
    return Fairness(_jain(served, waited, n_spans), gap_s)


def _overlap(start_s: float, end_s: float, n_spans: int) -> Floats:
    """The part of a time that is in each span; that after the last span is left out."""
    edges = np.clip(np.arange(n_spans + 1) * SPAN_S, start_s, end_s)
    length_s = end_s - start_s
    if length_s <= 0:
        share = np.zeros(n_spans)
        share[min(int(start_s / SPAN_S), n_spans) : int(start_s / SPAN_S) + 1] = 1.0
        return share
    return np.diff(edges) / length_s


def _backlogged(outcomes: Iterable[Outcome], n_spans: int) -> npt.NDArray[np.bool_]:
    """The spans in which something waited from the first moment to the last."""
    whole = np.zeros(n_spans, dtype=np.bool_)
    for start_s, end_s in _merged((one.arrived_s, one.dispatched_s or one.ended_s) for one in outcomes):
        whole[int(np.ceil(start_s / SPAN_S)) : int(end_s / SPAN_S)] = True
    return whole


def _merged(times: Iterable[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """Times that overlap, as one."""
    start_s, end_s = float("inf"), float("-inf")
    for next_start_s, next_end_s in sorted(times):
        if next_start_s > end_s:
            if end_s > start_s:
                yield start_s, end_s
            start_s = next_start_s
        end_s = max(end_s, next_end_s)
    if end_s > start_s:
        yield start_s, end_s


def _jain(
    served: Mapping[TenantName, Floats], waited: Mapping[TenantName, npt.NDArray[np.bool_]], n_spans: int
) -> float | None:
    """The mean over spans in which some were backlogged together, and were served."""
    indices = []
    for span in range(n_spans):
        index = jain_index([float(served[tenant][span]) for tenant, was in waited.items() if was[span]])
        if index is not None:
            indices.append(index)
    return float(np.mean(indices)) if indices else None

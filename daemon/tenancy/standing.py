"""How tenants stand towards each other: what each has been served, and how fair that was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from preble.daemon.ids import GpuId, TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One tenant's account, as it is now."""

    weight: float
    is_batch: bool
    waiting: int
    """Requests, before all engines."""
    running: int
    credit_ms: float | None
    """GPU time that it may use before it has to stand back; None where fairness is not by credit."""
    served_ms: Mapping[GpuId, float]
    """GPU time that its requests caused, or are expected to, since the daemon's start."""


def jain_index(services: Sequence[float]) -> float | None:
    """Jain's index of services by weight: 1 if all have the same, 1/n if one of n has everything.

    None for fewer than two, and where nobody got anything.
    """
    squares = sum(service * service for service in services)
    return sum(services) ** 2 / (len(services) * squares) if len(services) > 1 and squares > 0 else None


def service_gap(
    served: Mapping[TenantName, Sequence[float]], waited: Mapping[TenantName, Sequence[bool]]
) -> float | None:
    """Of two tenants, how much more service by weight one got than the other at most while both waited all along.

    Both tell of the same spans of time: what each tenant was served in it, and whether some request of it waited from
    its beginning to its end. None where no two tenants ever did.
    """
    gaps = []
    for one, other in combinations(served, 2):
        ahead = 0.0
        for mine, its, i_wait, it_waits in zip(served[one], served[other], waited[one], waited[other], strict=True):
            both = i_wait and it_waits
            ahead = ahead + mine - its if both else 0.0
            if both:
                gaps.append(abs(ahead))
    return max(gaps, default=None)

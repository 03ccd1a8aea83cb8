"""Who got how much GPU time of late, and how fair that was to those who wanted more than they got."""

from collections import deque
from collections.abc import Collection, Mapping

from preble.daemon.ids import GpuId, TenantName
from preble.daemon.obs.live.counts import Counts
from preble.daemon.tenancy.standing import Standing, jain_index, service_gap

_MOST_COMPARED = 64
"""Backlogged tenants that are compared in pairs; of more, those that have most waiting."""


class Service:
    """Tells the counts what was served since it was last asked; compares tenants, a slot at a time."""

    def __init__(self, n_slots: int) -> None:
        self._seen: dict[TenantName, Mapping[GpuId, float]] = {}
        """What was known of each tenant's service, from the beginning."""
        self._now: dict[TenantName, float] = {}
        """Service by weight in the slot that has begun, ms."""
        self._waited: set[TenantName] = set()
        """Those of which something has waited all the time since the slot began."""
        self._slots: deque[tuple[dict[TenantName, float], set[TenantName]]] = deque(maxlen=n_slots)
        self.jain: float | None = None
        """Mean over the slots in which some were backlogged together; None where that was never."""
        self.gap_ms: float | None = None

    def stopped_waiting(self, tenant: TenantName) -> None:
        """Nothing of the tenant waits any more."""
        self._waited.discard(tenant)

    def count(self, standings: Mapping[TenantName, Standing], counts: Counts) -> None:
        """Add what was served since."""
        for tenant, standing in standings.items():
            before = self._seen.get(tenant, {})
            for gpu, served_ms in standing.served_ms.items():
                more_ms = served_ms - before.get(gpu, 0.0)
                if more_ms:
                    counts.gpu(gpu).add(f"served:{tenant}", round(1000 * more_ms))
                    counts.tenant(tenant).recent.add("served_us", round(1000 * more_ms))
                    self._now[tenant] = self._now.get(tenant, 0.0) + more_ms / standing.weight
            self._seen[tenant] = standing.served_ms

    def roll(self, waiting: Mapping[TenantName, int]) -> None:
        """A slot has passed; these have something waiting."""
        self._slots.append((self._now, self._waited))
        most = sorted(waiting, key=lambda tenant: -waiting[tenant])[:_MOST_COMPARED]
        self._now, self._waited = {}, set(most)
        self._compare()

    def _compare(self) -> None:
        indices = [jain_index([served.get(name, 0.0) for name in waited]) for served, waited in self._slots]
        known = [index for index in indices if index is not None]
        self.jain = sum(known) / len(known) if known else None
        tenants: Collection[TenantName] = set().union(*(waited for _, waited in self._slots))
        self.gap_ms = service_gap(
            {name: [served.get(name, 0.0) for served, _ in self._slots] for name in tenants},
            {name: [name in waited for _, waited in self._slots] for name in tenants},
        )

"""Of the requests that run on one engine, which part counts for a tenant that comes to it."""

from preble.daemon.ids import TenantName
from preble.daemon.sched.fairline import Turns
from preble.daemon.sched.weights import Weights


class Shares:
    """Running requests by tenant."""

    __slots__ = ("_n_all", "_running", "_turns", "_weights")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._running: dict[TenantName, int] = {}
        self._weights = Weights(turns.weight)
        self._n_all = 0

    def add(self, tenant: TenantName) -> None:
        """A request of the tenant's starts."""
        n_own = self._running.get(tenant, 0)
        if not n_own:
            self._weights.add(tenant)
        self._running[tenant] = n_own + 1
        self._n_all += 1

    def remove(self, tenant: TenantName) -> None:
        """One of them has ended."""
        self._running[tenant] -= 1
        self._n_all -= 1
        if not self._running[tenant]:
            del self._running[tenant]
            self._weights.remove(tenant)

    def counting(self, tenant: TenantName) -> float:
        """Which part of the running requests counts as delayed by another one of the tenant's, 0 to 1.

        Its own, and of others' as many as fall to them by their weights for each of its own. What they run beyond that
        is more than their share: as a reason to stay away it would drive those who want little together.
        """
        n_own = self._running.get(tenant, 0)
        n_others = self._n_all - n_own
        if not n_others or not self._turns.are_by_tenant:
            return 1.0
        of_all = self._weights.of_all(tenant)
        fair = (n_own + 1) * (of_all - 1 if n_own else of_all)
        return 1.0 if fair >= n_others else (n_own + fair) / self._n_all

"""The weights of tenants that have something somewhere."""

from collections.abc import Callable

from preble.daemon.ids import TenantName


class Weights:
    """Each as it was when its tenant came; a change holds for those that come later."""

    def __init__(self, weight: Callable[[TenantName], float]) -> None:
        """`weight` tells one of now."""
        self._weight = weight
        self._weights: dict[TenantName, float] = {}
        self._all = 0.0

    def add(self, tenant: TenantName) -> None:
        """It has something, and had nothing."""
        weight = self._weights[tenant] = self._weight(tenant)
        self._all += weight

    def remove(self, tenant: TenantName) -> None:
        """It has nothing any more."""
        weight = self._weights.pop(tenant)
        self._all = self._all - weight if self._weights else 0.0

    def of_all(self, tenant: TenantName) -> float:
        """The sum of all, its own included if it has something, over the tenant's."""
        weight = self._weights.get(tenant)
        return self._all / (self._weight(tenant) if weight is None else weight)

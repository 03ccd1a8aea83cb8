"""The requests that wait and run at the engines of one model, as tenants are charged for them."""

from preble.daemon.ids import TenantName
from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.fairline import Turns

_MOST_OF_THE_FREE = 8
"""A tenant may have so many times as many places as are free: alone it gets 8 of 9, two get 8 of 17 each."""


class Pool:
    """Counts what waits, and tells `Turns` of everything that happens to it. Service is GPU time in ms."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.waiting = 0
        """Requests that wait at any of the engines."""
        self._waiting_of: dict[TenantName, int] = {}

    def has_place(self, tenant: TenantName, places: int) -> bool:
        """Whether another request of the tenant may wait, of so many in all. A flood leaves some for others."""
        return self._waiting_of.get(tenant, 0) < _MOST_OF_THE_FREE * (places - self.waiting)

    def joined(self, attempt: Attempt, now_s: float) -> None:
        """It waits."""
        self.waiting += 1
        self._waiting_of[attempt.spec.tenant] = self._waiting_of.get(attempt.spec.tenant, 0) + 1
        self.turns.joined(attempt.spec.lane, now_s)

    def left(self, attempt: Attempt, now_s: float) -> None:
        """It waits no more, and has not started."""
        self._waits_no_more(attempt.spec.tenant)
        self.turns.left(attempt.spec.lane, now_s)

    def started(self, attempt: Attempt, expected_ms: float) -> None:
        """It starts, and is charged for what is expected."""
        self._waits_no_more(attempt.spec.tenant)
        attempt.charged_ms = expected_ms
        self.turns.started(attempt.spec.lane, expected_ms, attempt.started_s)

    def ended(self, attempt: Attempt, service_ms: float, now_s: float) -> None:
        """It has left its engine, which spent so long on it."""
        more_ms, attempt.charged_ms = service_ms - attempt.charged_ms, service_ms
        self.turns.ended(attempt.spec.lane, more_ms, now_s)

    def _waits_no_more(self, tenant: TenantName) -> None:
        self.waiting -= 1
        self._waiting_of[tenant] -= 1
        if not self._waiting_of[tenant]:
            del self._waiting_of[tenant]

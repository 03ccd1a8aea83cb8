"""The requests that wait and run at the engines of one model, as tenants are charged for them."""

from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.fairline import Turns


class Pool:
    """Counts what waits, and tells `Turns` of everything that happens to it. Service is GPU time in ms."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.waiting = 0
        """Requests that wait at any of the engines."""

    def joined(self, attempt: Attempt, now_s: float) -> None:
        """It waits."""
        self.waiting += 1
        self.turns.joined(attempt.spec.tenant, now_s)

    def left(self, attempt: Attempt, now_s: float) -> None:
        """It waits no more, and has not started."""
        self.waiting -= 1
        self.turns.left(attempt.spec.tenant, now_s)

    def started(self, attempt: Attempt, expected_ms: float) -> None:
        """It starts, and is charged for what is expected."""
        self.waiting -= 1
        attempt.charged_ms = expected_ms
        self.turns.started(attempt.spec.tenant, expected_ms)

    def ended(self, attempt: Attempt, service_ms: float, now_s: float) -> None:
        """It has left its engine, which spent so long on it."""
        self.turns.ended(attempt.spec.tenant, service_ms - attempt.charged_ms, now_s)
        attempt.charged_ms = service_ms

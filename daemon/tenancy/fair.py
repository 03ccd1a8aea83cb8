"""Whose turn it is: service in proportion to weights, between those who have something to do.

Service is GPU time, in ms, that a request causes: charged by what is expected when it starts, and put right when it
ends. Locality decides within what fairness allows: `admissible` says which tenants may be served now, and the caller
takes the request of theirs that finds most of its prompt cached.

`Credits` is DLPM (arXiv 2501.14312) with one account per tenant for all engines and keys: who has credit left may be
served; when nobody who waits has, all get a quantum in proportion to their weights, so no engine idles for fairness. Of
two tenants that wait all the time, of weights v and w, the services S and T never differ by more than
|S/v - T/w| <= 2 quantum + U/v + U/w, where U is the largest single charge (see docs/fairness.md). Tenants that use less
than they are given come first, as flows that want little do in FQ-CoDel (RFC 8290). `Counters` is VTC (OSDI'24), which
takes whoever has been served least, and leaves no room for locality. `Everybody` is not fair.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import floor

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import GpuId, TenantName
from preble.daemon.priority import Priority
from preble.daemon.tenancy.standing import Standing

_HALF_LIFE_S = 60.0
"""In which half of the debt of a tenant that wants nothing is forgiven."""
_LIGHT_RATIO = 0.75
"""Of its quanta, what a tenant uses at most that wants little."""
_LIGHT_QUANTA = 8
"""So much of that may add up, for what comes in bursts."""
_LIGHT_ROUNDS = 32
"""Who has had something waiting all the while so many quanta were given wants more than little."""
_CALM_S = 1.0
"""After so long in which nothing had to wait it is forgotten who used or saved how much: nobody took it from others."""
_EXPECTED_S = 60.0
"""So long after a request of a tenant that wants little others leave room for its next."""


@dataclass(slots=True)
class _Account:
    weight: float = 1.0
    is_batch: bool = False
    waiting: int = 0
    running: int = 0
    balance_ms: float = 0.0
    seen_rounds: int = -1
    """Of quanta: what it has been given of them is in its balance."""
    spare_ms: float = 0.0
    """What it has left of `_LIGHT_RATIO` of its quanta: whether it wants little."""
    seen_calms: int = 0
    """What it had left before the last of these is forgotten."""
    woke_round: int = 0
    """The one in which it began to have something waiting, if it has."""
    idle_since_s: float = 0.0
    """If it neither waits nor runs."""

    @property
    def is_idle(self) -> bool:
        return not (self.waiting or self.running)


class _Accounts:
    """Who waits, runs and is batch: what all kinds of turns have in common. All times are the caller's."""

    are_by_tenant = True
    """Whether it matters within a class whose a request is."""

    def __init__(self, batch_share: float) -> None:
        """Batch gets no less than `batch_share` (0 to 1) of the service while it waits for interactive requests."""
        self._accounts: dict[TenantName, _Account] = {}
        self._backlogged: dict[TenantName, _Account] = {}
        """Those that have something waiting."""
        self._owed_per_ms = batch_share / (1 - batch_share)
        self._owed_to_batch_ms = 0.0
        self._waiting = {False: 0, True: 0}
        """Requests that wait, by whether they are batch."""

    def stand(self, tenant: TenantName, weight: float, is_batch: bool) -> None:
        """From now on the tenant has this weight and class, also for what waits. Until then: 1, and interactive."""
        account = self._account(tenant)
        self._waiting[account.is_batch] -= account.waiting
        self._waiting[is_batch] += account.waiting
        account.weight, account.is_batch = weight, is_batch

    def _account(self, tenant: TenantName) -> _Account:
        """Open one if it has none."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account

    def weight(self, tenant: TenantName) -> float:
        """Its share, by those of the others."""
        account = self._accounts.get(tenant)
        return account.weight if account is not None else 1.0

    def joined(self, tenant: TenantName, now_s: float) -> None:
        """A request begins to wait."""
        account = self._account(tenant)
        if not account.waiting:
            self._wake(account, now_s)
        account.waiting += 1
        self._waiting[account.is_batch] += 1
        self._backlogged[tenant] = account

    def left(self, tenant: TenantName, now_s: float) -> None:
        """A request waits no more, and was not started."""
        account = self._accounts[tenant]
        self._waits_no_more(tenant, account, now_s)
        account.idle_since_s = now_s

    def started(self, tenant: TenantName, expected_ms: float, now_s: float) -> None:
        """A request that waited starts, and is expected to take so long."""
        account = self._accounts[tenant]
        self._admit(account)
        if self._waiting[True] and self._waiting[False]:
            self._owed_to_batch_ms += -expected_ms if account.is_batch else self._owed_per_ms * expected_ms
        self._waits_no_more(tenant, account, now_s)
        account.running += 1
        self._charge(account, expected_ms)

    def ended(self, tenant: TenantName, more_ms: float, now_s: float) -> None:
        """A request that was started has ended; it took so much more than was expected, or less."""
        account = self._accounts[tenant]
        assert account.running > 0, f"{tenant} has nothing that could end"
        account.running -= 1
        self._charge(account, more_ms)
        account.idle_since_s = now_s

    def admissible(self, tenants: Collection[TenantName]) -> Collection[TenantName]:
        """Which of these, who all wait, may be served next: never nobody. Changes nothing."""
        if self._waiting[True] and self._waiting[False]:  # at some engine, if not at this one
            is_turn_of_batch = self._owed_to_batch_ms > 0
            of_turn = [tenant for tenant in tenants if self._accounts[tenant].is_batch is is_turn_of_batch]
            tenants = of_turn or tenants
        return self._choose(tenants)

    def rank(self, tenant: TenantName) -> float:
        """Of those who may be served and have as much cached, the lowest comes first."""
        return 0.0

    def is_light(self, tenant: TenantName) -> bool:
        """Whether it wants so little that others' work should hardly be felt by it."""
        return False

    def may_borrow(self, tenant: TenantName) -> bool:
        """Whether it may start without credit, where those who have some cannot."""
        return False

    def leaves_room(self, tenant: TenantName) -> bool:
        """Whether engines are not to be filled with what it has, since others that want little have come of late."""
        return False

    def priority(self, tenant: TenantName) -> Priority:
        """In an engine, of a request that starts now."""
        yields, account = self.leaves_room(tenant), self._accounts.get(tenant)
        if account is not None and account.is_batch:
            return Priority.YIELDING_BATCH if yields else Priority.BATCH
        if yields:
            return Priority.YIELDING
        others_wait = len(self._backlogged) > (tenant in self._backlogged)
        return Priority.LIGHT if others_wait and self.is_light(tenant) else Priority.USUAL

    def standing(self, tenant: TenantName, served_ms: Mapping[GpuId, float]) -> Standing | None:
        """How a tenant stands that was served so much by each engine; None if it was never heard of."""
        account = self._accounts.get(tenant)
        if account is None:
            return None
        return Standing(
            weight=account.weight,
            is_batch=account.is_batch,
            waiting=account.waiting,
            running=account.running,
            credit_ms=self._credit_ms(account),
            served_ms=served_ms,
        )

    def _credit_ms(self, account: _Account) -> float | None:
        """None where there is no such thing."""
        return None

    def _waits_no_more(self, tenant: TenantName, account: _Account, now_s: float) -> None:
        assert account.waiting > 0, f"{tenant} has nothing waiting"
        account.waiting -= 1
        self._waiting[account.is_batch] -= 1
        if not account.waiting:
            del self._backlogged[tenant]
        if not self._waiting[True]:
            self._owed_to_batch_ms = 0.0

    def _wake(self, account: _Account, now_s: float) -> None:
        """It waits again, or for the first time."""

    def _admit(self, account: _Account) -> None:
        """It was chosen, and is about to be charged."""

    def _charge(self, account: _Account, service_ms: float) -> None:
        """It got so much more service, or less."""

    def _choose(self, tenants: Collection[TenantName]) -> Collection[TenantName]:
        return tenants


class Everybody(_Accounts):
    """No fairness within a class: whoever is next by locality or arrival."""

    are_by_tenant = False


class Credits(_Accounts):
    """DLPM: who has credit may be served; `balance_ms` is the credit."""

    def __init__(self, quantum_ms: float, batch_share: float) -> None:
        """`quantum_ms` is GPU time for a weight of 1: small, it is fairer; large, it keeps more locality."""
        super().__init__(batch_share)
        self._quantum_ms = quantum_ms
        self._rounds = 0
        """Of quanta given: how much fairness has held back."""
        self._calms = 0
        """How often something came when nothing interactive had had to wait for long enough."""
        self._calm_since_s = 0.0
        """When the last of what had to wait started, if nothing interactive waits; or when that was last counted."""
        self._waits_since_s = 0.0
        """When something came last while nothing interactive waited."""
        self._now_s = 0.0
        self._last_light: TenantName | None = None
        """Who was the last to come of those that want little."""
        self._last_light_s = 0.0

    def stand(self, tenant: TenantName, weight: float, is_batch: bool) -> None:
        """From now on; of what it has it keeps no more than its new weight allows."""
        super().stand(tenant, weight, is_batch)
        account = self._accounts[tenant]
        quantum_ms = self._quantum_of(account)
        account.balance_ms = min(quantum_ms, account.balance_ms)
        account.spare_ms = min(_LIGHT_QUANTA * quantum_ms, account.spare_ms)

    def _credit_ms(self, account: _Account) -> float | None:
        return self._earned_ms(account)

    def rank(self, tenant: TenantName) -> float:
        """The most credit for its weight first."""
        account = self._accounts[tenant]
        return -account.balance_ms / account.weight

    def is_light(self, tenant: TenantName) -> bool:
        """Whether it has used less than three quarters of its quanta of late."""
        account = self._accounts.get(tenant)
        if account is None:
            return True
        if account.is_batch or self._spare_ms(account) <= 0:
            return False
        return not account.waiting or self._rounds - account.woke_round <= _LIGHT_ROUNDS

    def may_borrow(self, tenant: TenantName) -> bool:
        """Whether it wants little, and owes less than a quantum: what it saves it needs in bursts."""
        account = self._accounts[tenant]
        return self.is_light(tenant) and account.balance_ms > -self._quantum_of(account)

    def leaves_room(self, tenant: TenantName) -> bool:
        """Whether it wants more than little, and others that do not have come within the last minute."""
        is_recent = self._now_s - self._last_light_s <= _EXPECTED_S
        return is_recent and self._last_light not in (None, tenant) and not self.is_light(tenant)

    def joined(self, tenant: TenantName, now_s: float) -> None:
        """A request begins to wait."""
        if not self._waiting[False]:  # batch waits for whoever is not
            self._waits_since_s = now_s
            if now_s - self._calm_since_s >= _CALM_S:
                self._calms += 1
                self._calm_since_s = now_s  # what starts now counts for a while
        super().joined(tenant, now_s)
        self._now_s = now_s
        if self.is_light(tenant):
            self._last_light, self._last_light_s = tenant, now_s

    def _wake(self, account: _Account, now_s: float) -> None:
        """What it has been given while nothing of it waited is at most a quantum; debt fades while it wants nothing."""
        if account.is_idle and account.balance_ms < 0:
            account.balance_ms *= 0.5 ** ((now_s - account.idle_since_s) / _HALF_LIFE_S)
        account.woke_round = self._rounds
        self._earn(account)

    def _waits_no_more(self, tenant: TenantName, account: _Account, now_s: float) -> None:
        super()._waits_no_more(tenant, account, now_s)
        came_before = now_s > self._waits_since_s  # else it started as it came
        if came_before and not (account.is_batch or self._waiting[False]):
            self._calm_since_s = now_s

    def _earn(self, account: _Account) -> None:
        if account.seen_rounds != self._rounds or account.seen_calms != self._calms:
            account.balance_ms, account.spare_ms = self._earned_ms(account), self._spare_ms(account)
            account.seen_rounds, account.seen_calms = self._rounds, self._calms

    def _earned_ms(self, account: _Account) -> float:
        """Its credit with the rounds of quanta since it was last looked at; nobody has more than one quantum."""
        return self._filled_ms(account, account.balance_ms, ratio=1.0, most_quanta=1)

    def _spare_ms(self, account: _Account) -> float:
        """As it comes after a calm, what a new one has: who is alone uses up its quanta, others save them."""
        if account.seen_calms != self._calms:
            return _LIGHT_RATIO * self._quantum_of(account)
        return self._filled_ms(account, account.spare_ms, ratio=_LIGHT_RATIO, most_quanta=_LIGHT_QUANTA)

    def _filled_ms(self, account: _Account, had_ms: float, ratio: float, most_quanta: int) -> float:
        """What it had, and of each quantum since it was last looked at such a part."""
        rounds = self._rounds - account.seen_rounds
        if not rounds:
            return had_ms
        quantum_ms = self._quantum_of(account)
        return min(most_quanta * quantum_ms, had_ms + ratio * rounds * quantum_ms)

    def _quantum_of(self, account: _Account) -> float:
        return self._quantum_ms * account.weight

    def _charge(self, account: _Account, service_ms: float) -> None:
        self._earn(account)
        quantum_ms = self._quantum_of(account)
        account.balance_ms = min(quantum_ms, account.balance_ms - service_ms)
        account.spare_ms = max(-_LIGHT_QUANTA * quantum_ms, account.spare_ms - service_ms)

    def _choose(self, tenants: Collection[TenantName]) -> Collection[TenantName]:
        due = [tenant for tenant in tenants if self._accounts[tenant].balance_ms > 0]
        if not due:
            if self._somebody_has_credit():
                return [min(tenants, key=lambda tenant: (self.rank(tenant), tenant))]
            rounds = {tenant: self._rounds_to_credit(self._accounts[tenant]) for tenant in tenants}
            fewest = min(rounds.values())
            due = [tenant for tenant in tenants if rounds[tenant] == fewest]
        light = [tenant for tenant in due if self.is_light(tenant)]
        return light or due

    def _somebody_has_credit(self) -> bool:
        """Of those who wait, before whichever engine."""
        return any(account.balance_ms > 0 for account in self._backlogged.values())

    def _admit(self, account: _Account) -> None:
        """Give quanta, if nobody who waits has credit any more; else what it borrows beyond one is forgiven.

        Who has credit waits before other engines then, and this one is not to idle. Were all given quanta instead, who
        borrows would have credit before the other engines too, all the time.
        """
        if account.balance_ms > 0:
            return
        if self._somebody_has_credit():
            account.balance_ms = max(account.balance_ms, -self._quantum_of(account))
            return
        self._rounds += self._rounds_to_credit(account)
        for other in self._backlogged.values():
            self._earn(other)

    def _rounds_to_credit(self, account: _Account) -> int:
        return floor(-account.balance_ms / self._quantum_of(account)) + 1


class Counters(_Accounts):
    """VTC: who has had the least for its weight is next; `balance_ms` is what it has had."""

    def __init__(self, batch_share: float) -> None:
        super().__init__(batch_share)
        self._last_ms = 0.0
        """The counter of whoever was last to leave nobody waiting."""

    def _wake(self, account: _Account, now_s: float) -> None:
        """Idle time is not made up for: it goes on from where the least served of the others is."""
        others = [other.balance_ms for other in self._backlogged.values()]
        account.balance_ms = max(account.balance_ms, min(others, default=self._last_ms))

    def _waits_no_more(self, tenant: TenantName, account: _Account, now_s: float) -> None:
        super()._waits_no_more(tenant, account, now_s)
        if not self._backlogged:
            self._last_ms = account.balance_ms

    def _charge(self, account: _Account, service_ms: float) -> None:
        account.balance_ms += service_ms / account.weight

    def _choose(self, tenants: Collection[TenantName]) -> Collection[TenantName]:
        return [min(tenants, key=lambda tenant: (self._accounts[tenant].balance_ms, tenant))]


def make_turns(config: SchedulerConfig) -> Everybody | Credits | Counters:
    """Make what the configuration says."""
    match config.fairness:
        case "none":
            return Everybody(config.batch_service_ratio)
        case "vtc":
            return Counters(config.batch_service_ratio)
        case "d2lpm":
            return Credits(1000 * config.quantum_s, config.batch_service_ratio)

"""A waiting line that is fair between tenants: of those whose turn it is, whoever has most of its prompt cached.

Each tenant has a line of its own (`WaitingLine`), so that what one has waiting does not keep the others waiting. Whose
turn it is comes from outside (`Turns`): fairness first, locality within what it allows (DLPM, arXiv 2501.14312).
"""

from collections.abc import Callable, Collection, Iterator
from itertools import count
from typing import Generic, Protocol, TypeVar

from preble.daemon.ids import TenantName
from preble.daemon.priority import Priority
from preble.daemon.sched.order import WaitingLine
from preble.daemon.sched.weights import Weights

_T = TypeVar("_T")


class Turns(Protocol):
    """Accounts of all tenants' service, over all engines. All times are the caller's."""

    @property
    def are_by_tenant(self) -> bool:
        """Whether it matters whose a request is."""

    def weight(self, tenant: TenantName) -> float:
        """Its share, by those of the others."""

    def joined(self, tenant: TenantName, now_s: float) -> None:
        """A request begins to wait."""

    def left(self, tenant: TenantName, now_s: float) -> None:
        """A request waits no more, and was not started."""

    def started(self, tenant: TenantName, expected_ms: float, now_s: float) -> None:
        """A request that waited starts, and is expected to take so long."""

    def ended(self, tenant: TenantName, more_ms: float, now_s: float) -> None:
        """A request that was started has ended; it took so much more than was expected, or less."""

    def admissible(self, tenants: Collection[TenantName]) -> Collection[TenantName]:
        """Which of these, who all wait, may be served next: never nobody. Changes nothing."""

    def is_light(self, tenant: TenantName) -> bool:
        """Whether it wants so little that what others have in an engine need not keep it from there."""

    def may_borrow(self, tenant: TenantName) -> bool:
        """Whether it may start out of turn where whose turn it is cannot."""

    def leaves_room(self, tenant: TenantName) -> bool:
        """Whether engines are not to be filled with what it has, since others that want little have come of late."""

    def priority(self, tenant: TenantName) -> Priority:
        """In an engine, of a request that starts now."""

    def rank(self, tenant: TenantName) -> float:
        """Of those who may be served and have as much cached, the lowest comes first."""


class FairLine(Generic[_T]):
    """Items of tenants that wait before one engine, keyed by a name of theirs."""

    __slots__ = ("_arrivals", "_grouped", "_lines", "_places", "_share", "_turns", "_weights", "_work", "work")

    def __init__(self, share: Callable[[_T], float], turns: Turns, *, grouped: bool) -> None:
        """`share` tells an item's cached share of now, from 0 to 1; `grouped` is whether that matters."""
        self._share = share
        self._turns = turns
        self._grouped = grouped
        self._lines: dict[TenantName, WaitingLine[_T]] = {}
        self._weights = Weights(turns.weight)
        self._work: dict[TenantName, int] = {}
        self.work = 0
        """What all that waits adds up to, as its adder reckons."""
        self._places: dict[str, tuple[TenantName, int, int]] = {}
        """Of every name its tenant, its place in the order of arrival, and its work."""
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[_T]:
        return (self._lines[tenant].item(name) for name, (tenant, _, _) in self._places.items())

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, name: str, tenant: TenantName, item: _T, work: int = 0) -> None:
        """Let it wait. `work` is how much it is, in whatever unit."""
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = WaitingLine(self._share, grouped=self._grouped)
            self._weights.add(tenant)
        line.add(name, item)
        self._places[name] = tenant, next(self._arrivals), work
        self._work[tenant] = self._work.get(tenant, 0) + work
        self.work += work

    def remove(self, name: str) -> _T:
        """Take it out, wherever it is in the line."""
        return self._take_out(name, WaitingLine.remove)

    def start(self, name: str) -> _T:
        """Take out the one that `first` named."""
        return self._take_out(name, WaitingLine.start)

    def _take_out(self, name: str, how: Callable[[WaitingLine[_T], str], _T]) -> _T:
        tenant, _, work = self._places.pop(name)
        item = how(self._lines[tenant], name)
        self._work[tenant] -= work
        self.work -= work
        if not self._lines[tenant]:
            del self._lines[tenant], self._work[tenant]
            self._weights.remove(tenant)
        return item

    def before(self, tenant: TenantName, work: int) -> tuple[float, float]:
        """What comes before so much more work of the tenant's, of the work that waits; and how many wait for it.

        Before it come its own, and what others get meanwhile, nothing if it is light. Its own wait for it, and those of
        others whose turns come in between. The rest of what others wait for they asked for beyond their share.
        """
        if not self._places:
            return 0, 0
        if not self._turns.are_by_tenant:
            return self.work, len(self._places)
        line = self._lines.get(tenant)
        if line is None:
            if self._turns.is_light(tenant):
                return 0, 0
            return min(self.work, work * self._weights.of_all(tenant)), 0
        n_own, n_all = len(line), len(self._places)
        if n_own == n_all:
            return self.work, n_all
        own, times = self._work[tenant], self._weights.of_all(tenant)
        of_others = 0 if self._turns.is_light(tenant) else min(self.work - own, (own + work) * (times - 1))
        return own + of_others, min(n_all, n_own * times)

    def first(self) -> _T | None:
        """The next to start, which `start` then takes out. None if nobody waits."""
        if not self._lines:
            return None
        tenants = self._turns.admissible(self._lines.keys())
        tenant = min(tenants, key=self._rank) if len(tenants) > 1 else next(iter(tenants))
        return self._lines[tenant].first()

    def first_light(self, other_than: TenantName, *, also_indebted: bool) -> _T | None:
        """The next to start, out of turn, of other tenants that want little. None if none of them waits.

        Who owes more than it may borrow counts only if `also_indebted`.
        """
        may_start = self._turns.is_light if also_indebted else self._turns.may_borrow
        light = [tenant for tenant in self._lines if tenant != other_than and may_start(tenant)]
        return self._lines[min(light, key=self._rank)].first() if light else None

    def _rank(self, tenant: TenantName) -> tuple[int, float, int]:
        """Most cached first, then what `Turns` says, then who came first."""
        group, name = self._lines[tenant].head()
        return -group, self._turns.rank(tenant), self._places[name][1]

    def last(self, most: int) -> list[_T]:
        """At most so many of those that would start last, of the tenant that has most waiting."""
        longest = max(self._lines.values(), key=len, default=None)
        return longest.last(most) if longest is not None else []

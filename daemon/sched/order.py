"""Which waiting request starts next: groups by cached share, served in proportion (paper, section 3.3).

Group g of `GROUPS` holds requests of which a share of at least g / GROUPS is cached, and has weight g + 1. Groups are
served by stride scheduling, first come, first served within each. So nobody waits for ever: with k older requests in
its group g, a request is among the next `(k + 1) * MOST_PICKS / (g + 1) + GROUPS` to start.

Shares are those of the live index. Looking at every waiting request for every start would make a start cost more the
longer the queue, so each pick looks at the one it is about to choose and at `REFRESHED` others in turn.
"""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import Generic, TypeVar

GROUPS = 10
MOST_PICKS = GROUPS * (GROUPS + 1) // 2
REFRESHED = 8

_T = TypeVar("_T")


class _Waiting(Generic[_T]):
    __slots__ = ("group", "item", "number")

    def __init__(self, item: _T, number: int, group: int) -> None:
        self.item = item
        self.number = number
        """Counts arrivals, here."""
        self.group = group


class WaitingLine(Generic[_T]):
    """Items that wait, keyed by a name of theirs. `share` tells an item's cached share of now, from 0 to 1."""

    def __init__(self, share: Callable[[_T], float], *, grouped: bool) -> None:
        """Not `grouped`, all are of one group: first come, first served."""
        self._share = share
        self._grouped = grouped
        self._waiting: dict[str, _Waiting[_T]] = {}
        self._heaps: dict[int, list[tuple[int, str]]] = {}
        """Per group, arrival numbers and names; names that have left or changed group are skipped when they come up."""
        self._sizes = [0] * GROUPS
        self._passes = [0.0] * GROUPS
        self._pass = 0.0
        self._turn: deque[str] = deque()
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[_T]:
        return (waiting.item for waiting in self._waiting.values())

    def __contains__(self, name: str) -> bool:
        return name in self._waiting

    def item(self, name: str) -> _T:
        """What waits by this name."""
        return self._waiting[name].item

    def add(self, name: str, item: _T) -> None:
        """Let it wait."""
        self._arrivals += 1
        group = self._group(item)
        waiting = self._waiting[name] = _Waiting(item, self._arrivals, group)
        self._join(name, waiting, group)
        if self._grouped:
            self._turn.append(name)

    def remove(self, name: str) -> _T:
        """Take it out, wherever it is in the line."""
        waiting = self._waiting.pop(name)
        self._sizes[waiting.group] -= 1
        return waiting.item

    def first(self) -> _T | None:
        """The next to start, which `start` then takes out. None if nobody waits."""
        are_all_fresh = self._refresh()
        while self._waiting:
            group, name = self.head()
            waiting = self._waiting[name]
            if are_all_fresh:
                return waiting.item
            now = self._group(waiting.item)
            if now == group:
                return waiting.item
            self._regroup(name, waiting, now)
        return None

    def head(self) -> tuple[int, str]:
        """The group whose turn it is, by shares as they were when last looked at, and its first name; not if empty."""
        groups = [group for group, size in enumerate(self._sizes) if size]
        group = groups[0] if len(groups) == 1 else min(groups, key=lambda group: (self._passes[group], -group))
        return group, self._first_of(group)

    def start(self, name: str) -> _T:
        """Take out the one that `first` named, at its group's expense."""
        group = self._waiting[name].group
        self._pass = self._passes[group]
        self._passes[group] += 1 / (group + 1)
        return self.remove(name)

    def last(self, most: int) -> list[_T]:
        """At most so many of those that would start last: of the lowest group in use, the latest."""
        for group in range(GROUPS):
            if self._sizes[group]:
                latest_first = (waiting.item for waiting in reversed(self._waiting.values()) if waiting.group == group)
                return list(islice(latest_first, most))
        return []

    def _group(self, item: _T) -> int:
        return min(GROUPS - 1, int(GROUPS * self._share(item))) if self._grouped else 0

    def _join(self, name: str, waiting: _Waiting[_T], group: int) -> None:
        if self._sizes[group] == 0:
            self._passes[group] = max(self._passes[group], self._pass)
        waiting.group = group
        self._sizes[group] += 1
        heappush(self._heaps.setdefault(group, []), (waiting.number, name))

    def _regroup(self, name: str, waiting: _Waiting[_T], group: int) -> None:
        self._sizes[waiting.group] -= 1
        self._join(name, waiting, group)

    def _first_of(self, group: int) -> str:
        heap = self._heaps[group]
        while not self._is_in(heap[0][1], group):
            heappop(heap)
        return heap[0][1]

    def _is_in(self, name: str, group: int) -> bool:
        waiting = self._waiting.get(name)
        return waiting is not None and waiting.group == group

    def _refresh(self) -> bool:
        """Look at the next few again; whether these are all."""
        are_all = len(self._turn) <= REFRESHED
        for _ in range(min(REFRESHED, len(self._turn))):
            name = self._turn.popleft()
            waiting = self._waiting.get(name)
            if waiting is None:
                continue
            self._turn.append(name)
            group = self._group(waiting.item)
            if group != waiting.group:
                self._regroup(name, waiting, group)
        return are_all

"""A virtual clock, in whole picoseconds, and what is to happen when."""

from collections.abc import Callable
from heapq import heappop, heappush

_PS_PER_S = 10**12
_HOST = -1
"""Stands where an engine has its number, for what is no engine's: that comes first."""


class Agenda:
    """Things to do, by their time; of the same time, by whose they are and then in the order they were put down."""

    def __init__(self) -> None:
        self.now_ps = 0
        self.now_s = 0.0
        self._entries: list[tuple[int, int, int, Callable[[], None]]] = []
        self._n_entries = 0
        self._dropped: set[int] = set()

    @property
    def next_ps(self) -> int | None:
        """When the next thing is to be done; None if nothing is."""
        while self._entries and self._entries[0][2] in self._dropped:
            self._dropped.remove(heappop(self._entries)[2])
        return self._entries[0][0] if self._entries else None

    def set_clock(self, now_ps: int) -> None:
        """Let time pass."""
        assert now_ps >= self.now_ps, f"time would go back from {self.now_ps} to {now_ps}"
        self.now_ps, self.now_s = now_ps, now_ps / _PS_PER_S

    def put(self, when_ps: int, what: Callable[[], None], whose: int = _HOST) -> int:
        """Have something done; returns the number to drop it by."""
        self._n_entries += 1
        heappush(self._entries, (when_ps, whose, self._n_entries, what))
        return self._n_entries

    def drop(self, number: int) -> None:
        """Do without something that was put down and has not been taken."""
        self._dropped.add(number)

    def take_due(self) -> Callable[[], None] | None:
        """The next thing to be done now, if there is one."""
        return heappop(self._entries)[3] if self.next_ps == self.now_ps else None


def to_ps(seconds: float) -> int:
    """Seconds as whole picoseconds."""
    return round(seconds * _PS_PER_S)


def to_s(time_ps: int) -> float:
    """Picoseconds as seconds."""
    return time_ps / _PS_PER_S

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

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_ps(self) -> int | None:
        """When the next thing is to be done."""
        return self._entries[0][0] if self._entries else None

    def set_clock(self, now_ps: int) -> None:
        """Let time pass."""
        assert now_ps >= self.now_ps, f"time would go back from {self.now_ps} to {now_ps}"
        self.now_ps, self.now_s = now_ps, now_ps / _PS_PER_S

    def put(self, when_ps: int, what: Callable[[], None], whose: int = _HOST) -> None:
        """Have something done."""
        self._n_entries += 1
        heappush(self._entries, (when_ps, whose, self._n_entries, what))

    def take_due(self) -> Callable[[], None] | None:
        """The next thing to be done now, if there is one."""
        return heappop(self._entries)[3] if self._entries and self._entries[0][0] == self.now_ps else None


def to_ps(seconds: float) -> int:
    """Seconds as whole picoseconds."""
    return round(seconds * _PS_PER_S)


def to_s(time_ps: int) -> float:
    """Picoseconds as seconds."""
    return time_ps / _PS_PER_S

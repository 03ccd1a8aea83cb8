"""How long the requests with one prefix wait, and so when it needs one GPU more or fewer (paper, section 3.2).

The paper replicates a prefix whose mean queueing time doubles within H, and does not say when to stop. We compare the
halves of the window, as the reference does, and take a GPU back once requests wait as much less as they waited more
when it was added: it is not exploited for that prefix any more, whose blocks there then go by LRU like any others.
"""

from typing import NamedTuple

from preble.daemon.ids import GpuId

_ENOUGH = 4
"""Requests that a half must have had, for its mean to count."""


class _Half(NamedTuple):
    n_requests: int = 0
    sum_ms: float = 0.0

    @property
    def mean_ms(self) -> float:
        return self.sum_ms / self.n_requests if self.n_requests else 0.0


class Queueing:
    """What one prefix's requests waited in an older and a newer half of the window; `half_s` is half of H.

    `growth` is what the mean of a half must be times that of the one before, for the prefix to need another GPU.
    """

    __slots__ = ("_added", "_growth", "_half_s", "_newer", "_older", "_since_s", "taken_back")

    def __init__(self, half_s: float, growth: float, now_s: float) -> None:
        self._half_s = half_s
        self._growth = growth
        self._since_s = now_s
        """When the newer half began."""
        self._older = self._newer = _Half()
        self._added: tuple[tuple[GpuId, float], ...] = ()
        """GPUs that hold the prefix because its requests waited, each with their mean wait in ms then."""
        self.taken_back: frozenset[GpuId] = frozenset()
        """GPUs that may cache the prefix still, and that it needs no more."""

    def copy(self) -> "Queueing":
        """One that goes its own way from now on."""
        copy = Queueing(self._half_s, self._growth, self._since_s)
        copy._older, copy._newer, copy._added = self._older, self._newer, self._added
        copy.taken_back = self.taken_back
        return copy

    def waited(self, wait_ms: float, now_s: float) -> None:
        """A request goes to its engine after so long."""
        if self._is_over(now_s):
            self._turn(now_s)
        self._newer = _Half(self._newer.n_requests + 1, self._newer.sum_ms + wait_ms)

    def _is_over(self, now_s: float) -> bool:
        return now_s - self._since_s >= self._half_s

    def _turn(self, now_s: float) -> None:
        """The newer half is the older one from now on."""
        self._older = self._newer if now_s - self._since_s < 2 * self._half_s else _Half()
        self._newer, self._since_s = _Half(), now_s
        if self._added and self._growth * self._older.mean_ms <= self._added[-1][1]:
            *added, (gpu, _) = self._added
            self._added = tuple(added)
            self.taken_back |= {gpu}

    def grown_ms(self, uses: int, now_s: float) -> float | None:
        """The mean wait, if it has grown enough since half a window ago, else None.

        Of the prefix's `uses` within the window, those that have not started count as well: requests that wait still,
        and sessions that are expected back.
        """
        older, newer = self._older, self._newer
        if self._is_over(now_s) or not newer.n_requests or min(older.n_requests, uses - older.n_requests) < _ENOUGH:
            return None
        return newer.mean_ms if newer.mean_ms >= self._growth * older.mean_ms else None

    def add(self, gpu: GpuId, now_s: float) -> None:
        """The prefix comes to one GPU more; whether it needs yet another is to be seen from now on."""
        self._added = (*self._added, (gpu, self._newer.mean_ms))
        self.taken_back -= {gpu}
        self._older = self._newer = _Half()
        self._since_s = now_s

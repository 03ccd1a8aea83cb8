"""How much of GPUs' time the requests of a template take, of late."""

from math import ceil

WINDOW_S = 60.0
_SLOTS = 6
FULL_RATIO = 0.5
"""Of one GPU's time: beyond it, another is to have the prefix too."""


class Demand:
    """Sums over the last minute. All times are the caller's, in seconds."""

    def __init__(self) -> None:
        self._gpu_ms = [0.0] * _SLOTS
        self._slot = 0
        """The latest, counted from time 0."""

    def add(self, gpu_ms: float, now_s: float) -> None:
        """A request took so much."""
        self._roll(now_s)
        self._gpu_ms[self._slot % _SLOTS] += gpu_ms

    def gpus(self, now_s: float) -> int:
        """On how many GPUs none would spend more than `FULL_RATIO` of its time on them."""
        self._roll(now_s)
        return ceil(sum(self._gpu_ms) / (1000 * WINDOW_S * FULL_RATIO))

    def _roll(self, now_s: float) -> None:
        slot = int(now_s * _SLOTS / WINDOW_S)
        for passed in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            self._gpu_ms[passed % _SLOTS] = 0.0
        self._slot = max(self._slot, slot)

"""Counts and durations of late, kept as they come: a window of slots, of which the oldest is taken off at each turn.

Durations are counted in buckets, eight to an octave, so a percentile is at most 4.5 % off, however many there were.
"""

from collections import deque
from collections.abc import Mapping
from math import ceil, log2

from preble.daemon.wire.live import Spread

ENOUGH = 20
"""Of fewer durations no percentile is told."""

_LEAST_MS = 0.001
_PER_OCTAVE = 8
_MOST_BUCKET = 40 * _PER_OCTAVE

_Buckets = dict[int, int]


class Recent:
    """Sums by name, and durations by name, of the latest slots. Sums are whole, so nothing is left of what has passed.

    Units are those of what is added.
    """

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._sums: dict[str, int] = {}
        self._durations: dict[str, _Buckets] = {}
        self._slots: deque[tuple[dict[str, int], dict[str, _Buckets]]] = deque([({}, {})])

    def __bool__(self) -> bool:
        """Whether there was anything."""
        return bool(self._sums or self._durations)

    def add(self, name: str, amount: int = 1) -> None:
        """Count something."""
        self._sums[name] = self._sums.get(name, 0) + amount
        slot = self._slots[-1][0]
        slot[name] = slot.get(name, 0) + amount

    def took(self, name: str, duration_ms: float) -> None:
        """Count a duration."""
        bucket = _bucket(duration_ms)
        for kept in (self._durations, self._slots[-1][1]):
            buckets = kept.setdefault(name, {})
            buckets[bucket] = buckets.get(bucket, 0) + 1

    def roll(self) -> None:
        """Begin the next slot, and forget the oldest."""
        self._slots.append(({}, {}))
        if len(self._slots) > self._n_slots:
            sums, durations = self._slots.popleft()
            for name, amount in sums.items():
                self._sums[name] -= amount
            self._sums = {name: amount for name, amount in self._sums.items() if amount}
            for name, buckets in durations.items():
                _take(self._durations, name, buckets)

    def sum(self, name: str) -> int:
        """What was added by this name."""
        return self._sums.get(name, 0)

    def ratio(self, part: str, whole: str) -> float | None:
        """Of two sums; None where the whole is nothing."""
        total = self.sum(whole)
        return self.sum(part) / total if total else None

    def named(self, prefix: str) -> dict[str, int]:
        """The sums whose names begin so, by what follows."""
        return {name[len(prefix) :]: amount for name, amount in self._sums.items() if name.startswith(prefix)}

    def spread(self, name: str) -> Spread:
        """The durations of this name."""
        return _spread(self._durations.get(name, {}))

    def latest_sum(self, name: str, n_slots: int) -> int:
        """What was added by this name in the latest slots."""
        return sum(self._slots[-at][0].get(name, 0) for at in range(1, min(n_slots, len(self._slots)) + 1))

    def latest(self, name: str, n_slots: int) -> Spread:
        """The same of the latest slots alone."""
        together: _Buckets = {}
        for at in range(1, min(n_slots, len(self._slots)) + 1):
            for bucket, count in self._slots[-at][1].get(name, {}).items():
                together[bucket] = together.get(bucket, 0) + count
        return _spread(together)


def _take(durations: dict[str, _Buckets], name: str, gone: Mapping[int, int]) -> None:
    buckets = durations[name]
    for bucket, count in gone.items():
        buckets[bucket] -= count
        if not buckets[bucket]:
            del buckets[bucket]
    if not buckets:
        del durations[name]


def _bucket(duration_ms: float) -> int:
    if duration_ms <= _LEAST_MS:
        return 0
    return min(ceil(_PER_OCTAVE * log2(duration_ms / _LEAST_MS)), _MOST_BUCKET)


def _middle_ms(bucket: int) -> float:
    """Of the durations that a bucket counts."""
    exact: float = _LEAST_MS * 2 ** ((bucket - 0.5) / _PER_OCTAVE) if bucket else 0.0
    return float(f"{exact:.3g}")


def _spread(buckets: Mapping[int, int]) -> Spread:
    count = sum(buckets.values())
    if count < ENOUGH:
        return Spread(count=count, p50_ms=None, p90_ms=None, p99_ms=None)
    ranks = [ceil(share * count) for share in (0.5, 0.9, 0.99)]
    found: list[float] = []
    passed = 0
    for bucket in sorted(buckets):
        passed += buckets[bucket]
        while len(found) < len(ranks) and passed >= ranks[len(found)]:
            found.append(_middle_ms(bucket))
    return Spread(count=count, p50_ms=found[0], p90_ms=found[1], p99_ms=found[2])

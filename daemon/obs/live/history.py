"""The last hour as evenly spaced points, for a console that has just begun."""

from collections import deque
from collections.abc import Mapping
from itertools import repeat


class History:
    """Series of equal length, all of the same moments. A series that was not there, or is not any more, has gaps."""

    def __init__(self, n_points: int) -> None:
        self._n_points = n_points
        self._length = 0
        self._series: dict[str, deque[float | None]] = {}

    def add(self, point: Mapping[str, float | None]) -> None:
        """A value of each series, now."""
        for name in point:
            if name not in self._series:
                self._series[name] = deque(repeat(None, self._length), maxlen=self._n_points)
        for name, values in list(self._series.items()):
            values.append(point.get(name))
            if name not in point and all(value is None for value in values):
                del self._series[name]
        self._length = min(self._length + 1, self._n_points)

    def rows(self) -> dict[str, list[float | None]]:
        """By name, oldest first."""
        return {name: list(values) for name, values in self._series.items()}

"""Tells of what goes wrong again and again: at once, then ever more seldom, with how often it was."""

import traceback
from dataclasses import dataclass

import structlog

_FIRST_PAUSE_S = 10.0
_LONGEST_PAUSE_S = 3600.0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Kind:
    next_s: float
    pause_s: float = _FIRST_PAUSE_S
    untold: int = 0


class Faults:
    """Logs faults under one name: each kind, which is its type and the line that raised it, by itself.

    Times are seconds on any clock that does not go back.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._kinds: dict[tuple[str, str, int], _Kind] = {}
        self.total = 0

    def note(self, error: Exception, now_s: float) -> None:
        """It has gone wrong so."""
        self.total += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = self._kinds.setdefault((type(error).__name__, place.filename, place.lineno or 0), _Kind(now_s))
        if now_s < kind.next_s:
            kind.untold += 1
            return
        _log.error(self._event, exc_info=error, untold=kind.untold, total=self.total)
        kind.next_s, kind.untold = now_s + kind.pause_s, 0
        kind.pause_s = min(2 * kind.pause_s, _LONGEST_PAUSE_S)

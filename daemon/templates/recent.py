"""How templates were used of late, for consoles."""

from collections import OrderedDict
from dataclasses import dataclass, field

from preble.daemon.templates.directory import VersionKey

RECENT_S = 300.0
_SLOT_S = 10.0
_KEPT = 500
"""Versions; the one that was not used for longest is forgotten first."""


@dataclass(slots=True)
class Used:
    """Sums of requests that named a version."""

    requests: int = 0
    prefix_tokens: int = 0
    """That could have been found cached, as far as engines told."""
    cached_tokens: int = 0

    def add(self, other: "Used") -> None:
        """And so much more."""
        self.requests += other.requests
        self.prefix_tokens += other.prefix_tokens
        self.cached_tokens += other.cached_tokens


@dataclass(slots=True)
class _Line:
    slots: dict[int, Used] = field(default_factory=dict)


class Recent:
    """By template and version. All times are the caller's, in seconds."""

    def __init__(self) -> None:
        self._lines: OrderedDict[VersionKey, _Line] = OrderedDict()

    def add(self, template_id: int, version: int, used: Used, now_s: float) -> None:
        """A request has named it."""
        line = self._lines.setdefault((template_id, version), _Line())
        self._lines.move_to_end((template_id, version))
        line.slots.setdefault(int(now_s / _SLOT_S), Used()).add(used)
        if len(self._lines) > _KEPT:
            self._lines.popitem(last=False)

    def rows(self, now_s: float) -> dict[VersionKey, Used]:
        """Those that were used within `RECENT_S`."""
        oldest = int((now_s - RECENT_S) / _SLOT_S)
        found: dict[VersionKey, Used] = {}
        for key, line in list(self._lines.items()):
            line.slots = {slot: used for slot, used in line.slots.items() if slot > oldest}
            if not line.slots:
                del self._lines[key]
                continue
            found[key] = Used()
            for used in line.slots.values():
                found[key].add(used)
        return found

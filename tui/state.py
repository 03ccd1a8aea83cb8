"""What the console knows: the feed's events folded into tables, with the feed's freshness. Pure: times are arguments.

All of it is bounded, however fast events come: requests and logs are rings, and what leaves them is counted.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, TypeVar

from preble.daemon.wire.live import (
    Alarm,
    LiveEvent,
    LiveGpu,
    LiveRequest,
    LiveTemplate,
    LiveTenant,
    LiveTraffic,
    LogLine,
    Snapshot,
    TemplateKey,
    Tick,
)
from preble.tui import format as fmt
from preble.tui.roles import Role

MOST_REQUESTS = 2000
MOST_LOGS = 2000
HISTORY_POINTS = 720
_LATE_PERIODS, _STALE_PERIODS = 2, 5
_LEAST_PERIOD_S = 0.5  # a shorter interval would call a busy machine late

_Key = TypeVar("_Key", str, TemplateKey)
_Row = TypeVar("_Row")


class Freshness(Enum):
    """How old what is shown is: a glyph, a word and a role, so that no one of them has to be seen."""

    CONNECTING = ("◐", "CONNECTING", "warn")
    LIVE = ("●", "LIVE", "ok")
    LATE = ("◐", "LATE", "warn")
    STALE = ("○", "STALE", "bad")
    LOST = ("✕", "LOST", "bad")
    ENDED = ("■", "ENDED", "muted")

    @property
    def glyph(self) -> str:
        """Its sign."""
        return self.value[0]

    @property
    def word(self) -> str:
        """Its name."""
        return self.value[1]

    @property
    def role(self) -> Role:
        """Its colour."""
        return self.value[2]

    @property
    def is_old(self) -> bool:
        """Whether values are to be dimmed, and nothing may be changed on their grounds."""
        return self in (Freshness.STALE, Freshness.LOST, Freshness.CONNECTING, Freshness.ENDED)


@dataclass(frozen=True, slots=True)
class Link:
    """The connection to the feed. Times are the console's own clock, in seconds."""

    kind: Literal["connecting", "up", "lost", "ended"] = "connecting"
    reason: str = ""
    """Why it is lost."""
    retry_at_s: float | None = None


@dataclass(slots=True)
class ConsoleState:
    """Everything that screens show. `fold` and `connect` change it; `frozen` copies it."""

    link: Link = field(default_factory=Link)
    snapshot: Snapshot | None = None
    """The latest; its rows are old as soon as a tick came."""
    sequence: int = 0
    at: str | None = None
    """The daemon's time of the latest event."""
    received_s: float | None = None
    """Our time of it."""
    restarted_s: float | None = None
    """When we saw that the daemon is another one than before."""
    gpus: dict[str, LiveGpu] = field(default_factory=dict)
    tenants: dict[str, LiveTenant] = field(default_factory=dict)
    templates: dict[TemplateKey, LiveTemplate] = field(default_factory=dict)
    requests: dict[str, LiveRequest] = field(default_factory=dict)
    """By id, oldest first; at most `MOST_REQUESTS`."""
    logs: deque[tuple[int, LogLine]] = field(default_factory=lambda: deque(maxlen=MOST_LOGS))
    """With a number, by which a line is known."""
    alarms: list[Alarm] = field(default_factory=list)
    traffic: LiveTraffic | None = None
    history: dict[str, deque[float | None]] = field(default_factory=dict)
    """One point per `history_step_s`, oldest first."""
    request_changes: int = 0
    """Told since the start, those that have left the ring included."""
    log_changes: int = 0
    dropped_requests: int = 0
    """What the daemon counted but did not tell."""
    forgotten_requests: int = 0
    """What was told and had to leave for later ones."""
    dropped_logs: int = 0
    _point_at: str | None = None

    def fold(self, event: LiveEvent, now_s: float) -> None:
        """Take an event in. One of a time before, or of another daemon than the snapshot's, is passed over."""
        if isinstance(event, Snapshot):
            self._restart(event, now_s)
        elif self.snapshot is None or event.boot_id != self.snapshot.boot_id or event.sequence <= self.sequence:
            return
        else:
            self._advance(event)
        self.sequence, self.at, self.received_s = event.sequence, event.at, now_s
        self.link = Link("up")
        self.alarms = list(event.alarms)
        self.traffic = event.traffic
        self._take_requests(event.requests)
        self._take_logs(event.logs)

    def connect(self, link: Link) -> None:
        """The connection has changed."""
        self.link = link

    def freshness(self, now_s: float) -> Freshness:
        """How far what is shown can be trusted."""
        if self.link.kind == "ended":
            return Freshness.ENDED
        if self.link.kind == "lost":
            return Freshness.LOST
        if self.snapshot is None or self.received_s is None:
            return Freshness.CONNECTING
        periods = (now_s - self.received_s) / max(self.snapshot.interval_ms / 1000, _LEAST_PERIOD_S)
        if periods > _STALE_PERIODS:
            return Freshness.STALE
        return Freshness.LATE if periods > _LATE_PERIODS else Freshness.LIVE

    def age_s(self, now_s: float) -> float | None:
        """Since the latest event came."""
        return None if self.received_s is None else max(now_s - self.received_s, 0.0)

    def frozen(self) -> "ConsoleState":
        """A copy that later events leave as it is."""
        return replace(
            self,
            gpus=dict(self.gpus),
            tenants=dict(self.tenants),
            templates=dict(self.templates),
            requests=dict(self.requests),
            logs=self.logs.copy(),
            alarms=list(self.alarms),
            history={name: points.copy() for name, points in self.history.items()},
        )

    def points(self, name: str, width: int) -> list[float | None]:
        """The last `width` points of a history; none for an unknown name."""
        points = self.history.get(name, ())
        return list(points)[-width:]

    def hour(self, name: str, width: int) -> list[float | None]:
        """The whole of a history in at most `width` points."""
        return fmt.resample(list(self.history.get(name, ())), width)

    def _restart(self, snapshot: Snapshot, now_s: float) -> None:
        if self.snapshot is not None and self.snapshot.boot_id != snapshot.boot_id:
            self.restarted_s = now_s
        self.snapshot = snapshot
        self.gpus = {row.gpu: row for row in snapshot.gpus}
        self.tenants = {row.tenant: row for row in snapshot.tenants}
        self.templates = {row.key: row for row in snapshot.templates}
        self.requests = {}
        self.logs.clear()
        self.history = {name: deque(points, maxlen=HISTORY_POINTS) for name, points in snapshot.history.items()}
        self._point_at = snapshot.at

    def _advance(self, tick: Tick) -> None:
        self.gpus = _merged(self.gpus, ((row.gpu, row) for row in tick.gpus), tick.gone_gpus)
        self.tenants = _merged(self.tenants, ((row.tenant, row) for row in tick.tenants), tick.gone_tenants)
        self.templates = _merged(self.templates, ((row.key, row) for row in tick.templates), tick.gone_templates)
        self.dropped_requests += tick.dropped_requests
        self.dropped_logs += tick.dropped_logs
        passed_s = fmt.seconds_between(self._point_at, tick.at)
        if self.snapshot is not None and passed_s is not None and passed_s >= self.snapshot.history_step_s:
            self._point_at = tick.at
            self._add_points(tick.traffic)

    def _add_points(self, traffic: LiveTraffic) -> None:
        latencies_ms = sorted(row.latency_ms for row in self.requests.values() if row.latency_ms is not None)
        points: dict[str, float | None] = {
            "ttft_p50_ms": traffic.ttft.p50_ms,
            "ttft_p99_ms": traffic.ttft.p99_ms,
            "hit_ratio": traffic.hit_ratio,
            "arrived_per_s": traffic.arrived_per_s,
            "waiting": float(traffic.waiting),
            "running": float(traffic.running),
            "latency_p50_ms": _quantile(latencies_ms, 0.5),
            "latency_p99_ms": _quantile(latencies_ms, 0.99),
        }
        for gpu in self.gpus.values():
            points[f"load_ms/{gpu.gpu}"] = gpu.load_ms
            points[f"kv_cached_ratio/{gpu.gpu}"] = gpu.kv_cached_ratio
        for name, value in points.items():
            self.history.setdefault(name, deque(maxlen=HISTORY_POINTS)).append(value)

    def _take_requests(self, rows: Sequence[LiveRequest]) -> None:
        self.request_changes += len(rows)
        for row in rows:
            self.requests[row.request_id] = row  # one that is there keeps its place
        for request_id in list(self.requests)[: max(len(self.requests) - MOST_REQUESTS, 0)]:
            del self.requests[request_id]
            self.forgotten_requests += 1

    def _take_logs(self, lines: Sequence[LogLine]) -> None:
        for line in lines:
            self.log_changes += 1
            self.logs.append((self.log_changes, line))


def _merged(rows: dict[_Key, _Row], changed: Iterable[tuple[_Key, _Row]], gone: Sequence[_Key]) -> dict[_Key, _Row]:
    merged = rows | dict(changed)
    for key in gone:
        merged.pop(key, None)
    return merged


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """None below 20 values, of which a percentile would say nothing."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if len(ordered) >= 20 else None

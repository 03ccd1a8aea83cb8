"""Puts together what consoles are told. Has no clock and no I/O: the daemon and a simulation host the same.

It is told of everything that happens, which costs little, and asked for rows by whoever has a console.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preble.daemon.config import LiveConfig
from preble.daemon.flow.effects import Dispatch, Effect, Placed
from preble.daemon.flow.events import Arrived, BlocksRemoved, Event, FirstToken, KvReported
from preble.daemon.ids import TenantName
from preble.daemon.obs.live.alarms import Alarms, causes
from preble.daemon.obs.live.counts import Counts
from preble.daemon.obs.live.facts import End, GpuNow, Host
from preble.daemon.obs.live.history import History
from preble.daemon.obs.live.requests import Requests, Seen
from preble.daemon.obs.live.rows import gpu_row, tenant_rows, traffic_row
from preble.daemon.obs.live.service import Service
from preble.daemon.obs.live.told import Told
from preble.daemon.obs.live.windows import ENOUGH
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import (
    LiveGpu,
    LiveTemplate,
    LiveTenant,
    LiveTraffic,
    LogLine,
    RequestState,
    Snapshot,
    TemplateKey,
    Tick,
)
from preble.daemon.wire.moments import iso

_SLOTS = 30
_HISTORY_S = 3600.0
_POINT_SLOTS = 6
"""A point of the history tells the percentiles of so many slots."""
_MOST_TENANTS = 500
"""That are listed though they want nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose feed it is."""

    boot_id: str
    version: str
    name: str
    models: Sequence[str]
    policy: str
    fairness: str
    epoch_s: float
    """Seconds since the epoch when the machine's clock was 0."""
    started_s: float
    """On the machine's clock."""


@dataclass(frozen=True, slots=True)
class _Rows:
    gpus: list[LiveGpu]
    tenants: list[LiveTenant]
    templates: list[LiveTemplate]
    traffic: LiveTraffic
    kv_blocks: Mapping[str, int]


class Board:
    """Counts, and tells. All times are the machine's clock, in seconds."""

    def __init__(self, config: LiveConfig, identity: Identity, host: Host) -> None:
        self._config = config
        self._identity = identity
        self._host = host
        self._slot_s = config.recent_s / _SLOTS
        self._slot_ends_s = identity.started_s + self._slot_s
        self._counts = Counts(_SLOTS)
        self._service = Service(_SLOTS)
        self._requests = Requests(config.requests_per_tick)
        self._alarms = Alarms(identity.epoch_s)
        self._history = History(round(_HISTORY_S / self._slot_s))
        self._logs: deque[LogLine] = deque(maxlen=config.logs_per_tick)
        self._n_logs = 0
        self._n_logs_told = 0
        self._restarts: dict[str, int] = {}
        self._sequence = round(1000 * (identity.epoch_s + identity.started_s))
        """Begins above all that were told before this start of the daemon, which are fewer than one per ms."""
        self._told_gpus = Told[str, LiveGpu](lambda row: row.gpu)
        self._told_tenants = Told[str, LiveTenant](lambda row: row.tenant)
        self._told_templates = Told[TemplateKey, LiveTemplate](lambda row: row.key)

    @property
    def sequence(self) -> int:
        """Of the latest event."""
        return self._sequence

    @property
    def fairness(self) -> tuple[float | None, float | None]:
        """Jain's index of late, and the greatest gap of service in ms; None where no two tenants were backlogged."""
        return self._service.jain, self._service.gap_ms

    @property
    def watched(self) -> bool:
        """Whether there is somebody to tell what changes."""
        return self._requests.watched

    def watch(self, watched: bool) -> None:
        """Collect what changes from now on, or do not."""
        if watched:
            self._requests.watched = True
        else:
            self._requests.unwatch()
            for told in (self._told_gpus, self._told_tenants, self._told_templates):
                told.forget()

    # --- what happens ---

    def stepped(self, now_s: float, event: Event, effects: Sequence[Effect]) -> None:
        """The machine has taken a step."""
        match event:
            case Arrived(request=spec):
                seen = self._requests.arrived(spec, now_s)
                self._counts.arrived(spec.tenant)
                self._counts.moved(spec.tenant, None, "waiting")
                self._requests.change(seen)
            case FirstToken(attempt_id=attempt_id):
                self._move(self._requests.first_token(attempt_id, now_s), "streaming")
            case KvReported(gpu=gpu, changes=changes):
                removed = sum([len(change.keys) for change in changes if type(change) is BlocksRemoved])
                if removed:
                    self._counts.gpu(gpu).add("evicted_blocks", removed)
            case _:
                pass
        for effect in effects:
            match effect:
                case Placed(decision=decision):
                    self._counts.placed(decision.mode.value)
                    self._move(self._requests.placed(decision), "waiting")
                case Dispatch(request_id=request_id, attempt_id=attempt_id):
                    self._move(self._requests.dispatched(request_id, attempt_id, now_s), "running")
                case _:
                    pass  # how a request ended is told by `ended`, which knows more

    def ended(self, end: End, now_s: float) -> None:
        """A request is over, or was refused before the machine heard of it. To be told once of each."""
        seen, before = self._requests.ended(end, now_s)
        if before is None:
            self._counts.arrived(seen.tenant)
        self._counts.moved(seen.tenant, before, seen.state)
        self._counts.ended(end)
        self._note_waiting(seen.tenant)

    def decided(self, seconds: float) -> None:
        """So long took a placement."""
        self._counts.all.recent.took("decision", 1000 * seconds)

    def logged(self, line: LogLine) -> None:
        """The daemon has logged something."""
        self._logs.append(line)
        self._n_logs += 1

    def _move(self, seen: Seen | None, state: RequestState) -> None:
        if seen is not None and seen.state != state:
            before, seen.state = seen.state, state
            self._counts.moved(seen.tenant, before, state)
            self._note_waiting(seen.tenant)

    def _note_waiting(self, tenant: str) -> None:
        if not self._counts.tenant(tenant).waiting:
            self._service.stopped_waiting(TenantName(tenant))

    # --- what passes ---

    def age(self, now_s: float) -> None:
        """Let slots pass, with a point of the history for each. To be called at least once a slot."""
        while now_s >= self._slot_ends_s:
            rows = self._rows(now_s)
            self._look(rows, now_s)
            self._history.add(self._point(rows))
            self._counts.roll()
            lines = self._counts.tenants.items()
            self._service.roll({TenantName(name): line.waiting for name, line in lines if line.waiting})
            self._slot_ends_s += self._slot_s

    def _point(self, rows: _Rows) -> dict[str, float | None]:
        recent = self._counts.all.recent
        ttft, latency = (recent.latest(name, _POINT_SLOTS) for name in ("ttft", "latency"))
        point = {
            "ttft_p50_ms": ttft.p50_ms,
            "ttft_p99_ms": ttft.p99_ms,
            "latency_p50_ms": latency.p50_ms,
            "latency_p99_ms": latency.p99_ms,
            "hit_ratio": rows.traffic.hit_ratio,
            "arrived_per_s": round(recent.latest_sum("arrived", 1) / self._slot_s, 3),
            "waiting": float(rows.traffic.waiting),
            "running": float(rows.traffic.running),
        }
        for gpu in rows.gpus:
            point[f"load_ms/{gpu.gpu}"] = gpu.load_ms
            point[f"kv_cached_ratio/{gpu.gpu}"] = gpu.kv_cached_ratio
        return point

    # --- what is told ---

    def snapshot(self, now_s: float) -> Snapshot:
        """Everything, as of the latest tick's number: what has happened since comes again with the next."""
        identity, rows = self._identity, self._rows(now_s)
        return Snapshot(
            sequence=self._sequence,
            boot_id=identity.boot_id,
            at=iso(identity.epoch_s + now_s),
            started_at=iso(identity.epoch_s + identity.started_s),
            version=identity.version,
            name=identity.name,
            interval_ms=self._config.interval_ms,
            recent_s=self._config.recent_s,
            models=list(identity.models),
            policy=identity.policy,
            fairness=identity.fairness,
            gpus=rows.gpus,
            tenants=rows.tenants,
            templates=rows.templates,
            traffic=rows.traffic,
            alarms=self._alarms.rows(),
            requests=[seen.row(identity.epoch_s) for seen in self._requests.latest()],
            logs=list(self._logs),
            history=self._history.rows(),
            history_step_s=self._slot_s,
        )

    def tick(self, now_s: float) -> Tick:
        """What has changed since the tick before."""
        rows = self._rows(now_s)
        self._look(rows, now_s)
        gpus, gone_gpus = self._told_gpus.news(rows.gpus)
        tenants, gone_tenants = self._told_tenants.news(rows.tenants)
        templates, gone_templates = self._told_templates.news(rows.templates)
        changed, dropped = self._requests.take_changes()
        logs, dropped_logs = self._new_logs()
        self._sequence += 1
        return Tick(
            sequence=self._sequence,
            boot_id=self._identity.boot_id,
            at=iso(self._identity.epoch_s + now_s),
            gpus=gpus,
            tenants=tenants,
            templates=templates,
            traffic=rows.traffic,
            alarms=self._alarms.rows(),
            requests=[seen.row(self._identity.epoch_s) for seen in changed],
            logs=logs,
            gone_gpus=gone_gpus,
            gone_tenants=gone_tenants,
            gone_templates=gone_templates,
            dropped_requests=dropped,
            dropped_logs=dropped_logs,
        )

    def _rows(self, now_s: float) -> _Rows:
        counts, of_s = self._counts, self._covered_s(now_s)
        gpus = self._host.gpus()
        standings = self._host.standings([TenantName(name) for name in counts.tenants])
        self._service.count(standings, counts)
        self._count_restarts(gpus)
        active = [TenantName(name) for name in counts.tenants]
        tenants = list(self._host.tenants(active, _MOST_TENANTS))
        by_name: Mapping[str, Standing] = {str(name): standing for name, standing in standings.items()}
        return _Rows(
            gpus=[gpu_row(gpu, counts.gpu(gpu.gpu), of_s) for gpu in gpus],
            tenants=tenant_rows(tenants, by_name, counts.tenants, of_s),
            templates=list(self._host.templates()),
            traffic=traffic_row(counts, of_s, self._service.jain, self._service.gap_ms),
            kv_blocks={gpu.gpu: gpu.kv_blocks for gpu in gpus},
        )

    def _covered_s(self, now_s: float) -> float:
        """Of the time until now, what the counts are of."""
        since_slot_s = max(0.0, now_s - (self._slot_ends_s - self._slot_s))
        return max(1.0, min(now_s - self._identity.started_s, (_SLOTS - 1) * self._slot_s + since_slot_s))

    def _count_restarts(self, gpus: Sequence[GpuNow]) -> None:
        for gpu in gpus:
            more = gpu.restarts - self._restarts.get(gpu.gpu, 0)
            if more:
                self._counts.gpu(gpu.gpu).add("restarts", more)
                self._restarts[gpu.gpu] = gpu.restarts

    def _look(self, rows: _Rows, now_s: float) -> None:
        """For what needs a human."""
        recent = self._counts.all.recent
        found = causes(
            self._config,
            rows.gpus,
            rows.tenants,
            recent.ratio("failed", "ended") if recent.sum("ended") >= ENOUGH else None,
            rows.kv_blocks,
            {gpu.gpu: self._counts.gpu(gpu.gpu).sum("restarts") for gpu in rows.gpus},
            self._host.failures(),
        )
        self._alarms.update(found, now_s)

    def _new_logs(self) -> tuple[list[LogLine], int]:
        n_new = self._n_logs - self._n_logs_told
        self._n_logs_told = self._n_logs
        kept = min(n_new, len(self._logs))
        return list(self._logs)[len(self._logs) - kept :], n_new - kept

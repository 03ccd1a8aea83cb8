"""The daemon as the host of the live feed: what it knows of engines, tenants and itself without having counted."""

from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic, time

from preble.daemon.engine.fleet import Fleet
from preble.daemon.engine.supervisor import EngineStatus
from preble.daemon.flow.call import Settled
from preble.daemon.flow.runtime import Runtime
from preble.daemon.ids import TenantName
from preble.daemon.obs.live.facts import End, GpuNow, TenantNow
from preble.daemon.sched.attempt import EngineView
from preble.daemon.tenancy.account import Moment
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.ledger import Status
from preble.daemon.tenancy.limits import Limiter
from preble.daemon.tenancy.model import Tenant
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import LiveTemplate, RequestState

_STATES: Mapping[Status, RequestState] = {
    Status.FINISHED: "finished",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.REFUSED: "refused",
}


class DaemonHost:
    """Puts together what its owners know."""

    def __init__(
        self,
        directory: Directory,
        limiter: Limiter,
        faults: Callable[[], Sequence[str | None]],
    ) -> None:
        """`faults` says why something cannot be written, None for what can."""
        self._directory = directory
        self._limiter = limiter
        self._faults = faults
        self._fleet: Fleet | None = None
        self._runtime: Runtime | None = None
        self._templates: Callable[[], Sequence[LiveTemplate]] = list

    def attach(self, fleet: Fleet, runtime: Runtime) -> None:
        """There are engines."""
        self._fleet, self._runtime = fleet, runtime

    def show_templates(self, templates: Callable[[], Sequence[LiveTemplate]]) -> None:
        """There are templates; this tells which of them were used or are pinned."""
        self._templates = templates

    def gpus(self) -> Sequence[GpuNow]:
        """Every engine, in the order of the configuration."""
        if self._fleet is None or self._runtime is None:
            return ()
        views = {view.gpu: view for view in self._runtime.views()}
        return [_gpu(status, views.get(status.gpu)) for status in self._fleet.rows]

    def tenants(self, active: Collection[TenantName], most: int) -> Sequence[TenantNow]:
        """By name: those of `active` that are there, and others up to `most`."""
        now = Moment(monotonic(), time())
        found = sorted(self._directory.some(active, most), key=lambda tenant: tenant.name)
        return [self._tenant(tenant, now) for tenant in found]

    def _tenant(self, tenant: Tenant, now: Moment) -> TenantNow:
        settings = tenant.settings
        return TenantNow(
            tenant=tenant.name,
            priority=settings.priority,
            weight=settings.weight,
            suspended=settings.suspended,
            budget_used_ratio=self._limiter.budget_used(tenant.name, settings.limits, now),
        )

    def standings(self, tenants: Collection[TenantName]) -> Mapping[TenantName, Standing]:
        """Of those of them that ever asked for something."""
        return self._runtime.standings(tenants) if self._runtime is not None else {}

    def templates(self) -> Sequence[LiveTemplate]:
        """Those that were used of late, or are pinned."""
        return self._templates()

    def failures(self) -> Sequence[str]:
        """What cannot be written now."""
        return [fault for fault in self._faults() if fault is not None]


def end_of(settled: Settled) -> End:
    """A request's end, as the feed is told."""
    decision = settled.decision
    return End(
        request_id=settled.call.request_id,
        tenant=settled.call.tenant,
        model=settled.call.model,
        state=_STATES[settled.status],
        gpu=decision.gpu if decision else None,
        mode=decision.mode.value if decision else None,
        prompt_tokens=settled.prompt_tokens,
        predicted_cached_tokens=decision.cached_tokens if decision else None,
        cached_tokens=settled.cached_tokens,
        output_tokens=settled.output_tokens,
        attempts=settled.attempts,
        queue_ms=settled.queue_ms,
        ttft_ms=settled.ttft_ms,
        latency_ms=settled.latency_ms,
        error=settled.error,
        refused_by=settled.limit or settled.error_code,
        template=settled.call.template.reference if settled.call.template else None,
    )


def _gpu(status: EngineStatus, view: EngineView | None) -> GpuNow:
    error = view.time_error if view else None
    return GpuNow(
        gpu=status.gpu,
        state=status.state.value,
        draining=view.draining if view else False,
        detail=status.detail,
        model=status.model,
        running=view.running if view else 0,
        waiting=view.waiting if view else 0,
        kv_used_ratio=status.metrics.kv_usage_ratio if status.metrics else None,
        kv_cached_ratio=view.resident_blocks / view.kv_blocks if view and view.up and view.kv_blocks else None,
        kv_blocks=view.kv_blocks if view else 0,
        cached_tokens=view.resident_blocks * view.block_size if view else 0,
        load_ms=view.load_ms if view else 0.0,
        outstanding_ms=view.outstanding_ms if view else 0.0,
        decode_ratio=view.decode_ratio if view else 0.0,
        prefill_error_ratio=error.prefill_ratio if error else None,
        decode_error_ratio=error.decode_ratio if error else None,
        restarts=status.restarts,
        uptime_s=status.uptime_s,
        age_s=status.heard_s,
    )

"""Engines as an operator sees them: what their supervisors, the machine and the engines themselves know, in one row."""

from collections.abc import Callable

from preble.daemon.engine.fleet import Fleet
from preble.daemon.engine.metrics import EngineMetrics
from preble.daemon.engine.supervisor import EngineStatus
from preble.daemon.flow.foresight import Foresight, drained, restarted, undrained
from preble.daemon.ids import GpuId, ModelName
from preble.daemon.obs.metrics import GpuGauge
from preble.daemon.sched.attempt import EngineView
from preble.daemon.sched.returns import ReturnCounts
from preble.daemon.wire.admin import GpuRow

_ORDERS = {"drain": drained, "undrain": undrained, "restart": restarted}
Views = Callable[[], tuple[EngineView, ...]]


class GpuDesk:
    """Lists engines and passes an operator's orders on to the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        views: Views,
        ttft_p50_ms: Callable[[GpuId], float | None],
        returns: Callable[[ModelName], ReturnCounts],
        foresee: Callable[[GpuId], Foresight | None],
    ) -> None:
        self._fleet = fleet
        self._views = views
        self._ttft_p50_ms = ttft_p50_ms
        self._returns = returns
        self._foresee = foresee

    def rows(self) -> list[GpuRow]:
        """One row per engine, in the order of the configuration."""
        views = {view.gpu: view for view in self._views()}
        return [self._row(status, views.get(status.gpu)) for status in self._fleet.rows]

    async def drain(self, gpu: str) -> None:
        """Place nothing new there. Raises `NotFound`."""
        self._fleet.drain(GpuId(gpu))

    async def undrain(self, gpu: str) -> None:
        """Put it back to work. Raises `NotFound`."""
        self._fleet.undrain(GpuId(gpu))

    async def restart(self, gpu: str) -> None:
        """Drain, end and start it again; returns when that has begun. Raises `NotFound`, `Conflict`."""
        await self._fleet.restart(GpuId(gpu))

    def foresee(self, gpu: str, order: str) -> list[str]:
        """What `drain`, `undrain` or `restart` would do now, in sentences."""
        seen = self._foresee(GpuId(gpu))
        if seen is None:
            return [f"{gpu} has not been in service yet."]
        return _ORDERS[order](gpu, seen)

    def gauges(self) -> list[GpuGauge]:
        """The same for `/metrics`."""
        views = {view.gpu: view for view in self._views()}
        return [_gauge(status, views.get(status.gpu)) for status in self._fleet.rows]

    def _row(self, status: EngineStatus, view: EngineView | None) -> GpuRow:
        metrics = status.metrics
        return GpuRow(
            gpu=status.gpu,
            state=status.state.value,
            model=status.model,
            running=view.running if view else 0,
            waiting=view.waiting if view else 0,
            kv_used_ratio=metrics.kv_usage_ratio if metrics else None,
            hit_ratio=_hit_ratio(metrics),
            load_ms=view.load_ms if view else 0.0,
            ttft_p50_ms=self._ttft_p50_ms(status.gpu),
            pid=status.pid,
            restarts=status.restarts,
            uptime_s=status.uptime_s,
            indexed_blocks=view.resident_blocks if view else 0,
            draining=view.draining if view else False,
            detail=status.detail,
            outstanding_ms=view.outstanding_ms if view else 0.0,
            prefill_error_ratio=view.time_error.prefill_ratio if view and view.time_error else None,
            decode_error_ratio=view.time_error.decode_ratio if view and view.time_error else None,
            return_hit_ratio=self._returns(status.model).found_ratio,
        )


def _gauge(status: EngineStatus, view: EngineView | None) -> GpuGauge:
    metrics = status.metrics
    return GpuGauge(
        gpu=status.gpu,
        model=status.model,
        up=view.up if view else False,
        running=view.running if view else 0,
        waiting=view.waiting if view else 0,
        kv_used_ratio=metrics.kv_usage_ratio if metrics else None,
        hit_ratio=_hit_ratio(metrics),
        load_seconds=view.load_ms / 1000 if view else 0.0,
        indexed_blocks=view.resident_blocks if view else 0,
        prefill_error_ratio=view.time_error.prefill_ratio if view and view.time_error else None,
        decode_error_ratio=view.time_error.decode_ratio if view and view.time_error else None,
        unplaced_blocks=status.unplaced_blocks,
    )


def _hit_ratio(metrics: EngineMetrics | None) -> float | None:
    """Share of prompt tokens that the engine has found cached since it started; None before the first."""
    if metrics is None or metrics.prefix_query_tokens == 0:
        return None
    return metrics.prefix_hit_tokens / metrics.prefix_query_tokens

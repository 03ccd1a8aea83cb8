"""What needs a human, by rules on what consoles are shown. Alarms begin and end later than their causes: no flicker."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from preble.daemon.config import LiveConfig
from preble.daemon.obs.live.windows import ENOUGH
from preble.daemon.wire.live import Alarm, LiveGpu, LiveTenant
from preble.daemon.wire.moments import iso
from preble.daemon.wire.percents import percent

_BEGINS_AFTER_S = 2.0
_ENDS_AFTER_S = 10.0
_CALMER = 0.8
"""Of a threshold, what a value must fall under before its alarm ends."""
_DOWN = ("failed", "backoff")

Severity = Literal["warning", "critical"]
Kind = Literal["gpu", "tenant", "daemon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What a rule says of one thing, as long as it says it."""

    rule: str
    kind: Kind
    name: str
    severity: Severity
    text: str
    level: float = 1.0
    """By its threshold: from 1 on it is a cause, from a little below it keeps an alarm that is there."""


@dataclass(slots=True)
class _Raised:
    cause: Cause
    first_s: float
    seen_s: float
    is_told: bool = False


class Alarms:
    """Follows causes over time. Times are the machine's clock."""

    def __init__(self, epoch_s: float) -> None:
        self._epoch_s = epoch_s
        self._raised: dict[tuple[str, str], _Raised] = {}

    def update(self, causes: Iterable[Cause], now_s: float) -> None:
        """What is so now."""
        for cause in causes:
            key = (cause.rule, cause.name)
            raised = self._raised.get(key)
            if raised is None and cause.level >= 1:
                self._raised[key] = _Raised(cause, now_s, now_s)
            elif raised is not None and cause.level >= (_CALMER if raised.is_told else 1):
                raised.cause, raised.seen_s = cause, now_s
        for key, raised in list(self._raised.items()):
            if now_s - raised.seen_s > (_ENDS_AFTER_S if raised.is_told else 0):
                del self._raised[key]
            elif now_s - raised.first_s >= _BEGINS_AFTER_S:
                raised.is_told = True

    def rows(self) -> list[Alarm]:
        """Critical ones first, then those that have been there for longest."""
        told = [raised for raised in self._raised.values() if raised.is_told]
        told.sort(key=lambda raised: (raised.cause.severity, raised.first_s, raised.cause.name))
        return [
            Alarm(
                severity=raised.cause.severity,
                kind=raised.cause.kind,
                name=raised.cause.name,
                text=raised.cause.text,
                since=iso(self._epoch_s + raised.first_s),
            )
            for raised in told
        ]


def causes(
    config: LiveConfig,
    gpus: Sequence[LiveGpu],
    tenants: Sequence[LiveTenant],
    failed_ratio: float | None,
    kv_blocks: Mapping[str, int],
    restarts: Mapping[str, int],
    failures: Sequence[str],
) -> Iterator[Cause]:
    """Every rule. `failed_ratio` is of requests that have ended of late, None of too few; `restarts` are those of late.

    `kv_blocks` are those that each GPU has.
    """
    for gpu in gpus:
        yield from _gpu_causes(config, gpu, kv_blocks.get(gpu.gpu, 0), restarts.get(gpu.gpu, 0))
    for tenant in tenants:
        yield from _tenant_causes(config, tenant)
    if failed_ratio is not None:
        text = f"{percent(failed_ratio, 1)} of requests fail (limit {percent(config.alarm_error_ratio, 1)})"
        level = failed_ratio / config.alarm_error_ratio
        yield Cause(rule="errors", kind="daemon", name="preble", severity="critical", text=text, level=level)
    for failure in failures:
        yield Cause(rule=failure, kind="daemon", name="preble", severity="critical", text=failure)


def _gpu_causes(config: LiveConfig, gpu: LiveGpu, kv_blocks: int, restarts: int) -> Iterator[Cause]:
    def cause(rule: str, text: str, level: float = 1.0, severity: Severity = "warning") -> Cause:
        return Cause(rule=rule, kind="gpu", name=gpu.gpu, severity=severity, text=text, level=level)

    if gpu.state in _DOWN:
        yield cause("down", f"{gpu.state}: {gpu.detail or 'not in service'}", severity="critical")
    if restarts >= config.alarm_restarts:
        yield cause("restarts", f"restarted {restarts} times in {config.recent_s / 60:g} min")
    if gpu.kv_used_ratio is not None:
        level = gpu.kv_used_ratio / config.alarm_kv_used_ratio
        yield cause("kv_full", f"KV {percent(gpu.kv_used_ratio)}, {gpu.waiting} waiting", level)
    if kv_blocks:
        per_minute = 60 * gpu.evicted_blocks_per_s / kv_blocks
        text = f"evicts {percent(per_minute)} of its cache per minute"
        yield cause("evicting", text, per_minute / config.alarm_evicted_ratio)
    ratio = _time_error(gpu)
    if ratio is not None and gpu.ttft.count >= ENOUGH:
        parts = ((gpu.prefill_error_ratio, "prefill"), (gpu.decode_error_ratio, "decode"))
        known = ", ".join(f"{name} {percent(part)}" for part, name in parts if part is not None)
        text = f"takes {percent(ratio)} more or less time than predicted ({known})"
        yield cause("times", text, ratio / config.alarm_time_error_ratio)


def _time_error(gpu: LiveGpu) -> float | None:
    """How far off predictions of the GPU's work are, prefill and decode each for as much of it as they are."""
    prefill, decode = gpu.prefill_error_ratio, gpu.decode_error_ratio
    if prefill is None or decode is None:
        return decode if prefill is None else prefill
    return prefill + gpu.decode_ratio * (decode - prefill)


def _tenant_causes(config: LiveConfig, tenant: LiveTenant) -> Iterator[Cause]:
    p99_ms = tenant.queue.p99_ms
    if p99_ms is not None and tenant.waiting:
        limit_s = config.alarm_queue_p99_s
        text = f"queue wait p99 {p99_ms / 1000:.1f} s (limit {limit_s:g} s), {tenant.waiting} waiting"
        level = p99_ms / 1000 / limit_s
        yield Cause(rule="queue", kind="tenant", name=tenant.tenant, severity="warning", text=text, level=level)

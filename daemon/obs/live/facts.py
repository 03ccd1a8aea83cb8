"""What the live feed is told of requests that end, and what it asks its host for: the daemon, or a simulation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from preble.daemon.ids import TenantName
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import LiveTemplate, RequestState


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a request ended, or was refused. None: not known, or it did not come to that."""

    request_id: str
    tenant: str
    model: str
    state: RequestState
    gpu: str | None
    mode: str | None
    prompt_tokens: int
    predicted_cached_tokens: int | None
    cached_tokens: int | None
    output_tokens: int
    attempts: int
    queue_ms: float | None
    ttft_ms: float | None
    latency_ms: float
    error: str | None
    refused_by: str | None = None
    """The limit that refused it, or the error's code."""
    template: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNow:
    """One engine, as far as its host knows it without having counted."""

    gpu: str
    state: str
    draining: bool
    detail: str
    model: str
    running: int
    waiting: int
    kv_used_ratio: float | None
    kv_cached_ratio: float | None
    kv_blocks: int
    """0: not known."""
    cached_tokens: int
    load_ms: float
    outstanding_ms: float
    decode_ratio: float
    prefill_error_ratio: float | None
    decode_error_ratio: float | None
    restarts: int
    uptime_s: float | None
    age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantNow:
    """One tenant, as its operator wants it."""

    tenant: TenantName
    priority: str
    weight: float
    suspended: bool
    budget_used_ratio: float | None


class Host(Protocol):
    """Who knows what is not counted here."""

    def gpus(self) -> Sequence[GpuNow]:
        """Every engine."""

    def tenants(self, active: Collection[TenantName], most: int) -> Sequence[TenantNow]:
        """Those that are active, as far as they are there, and others up to `most` in all."""

    def standings(self, tenants: Collection[TenantName]) -> Mapping[TenantName, Standing]:
        """Of those of them that ever asked for something."""

    def templates(self) -> Sequence[LiveTemplate]:
        """Registered prompt templates."""

    def failures(self) -> Sequence[str]:
        """What the daemon itself cannot do now, in words."""

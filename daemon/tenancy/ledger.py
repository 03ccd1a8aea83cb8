"""What one request cost, whoever asked for it and however it ended."""

from enum import StrEnum

import msgspec

from preble.daemon.ids import GpuId, KeyId, ModelName, RequestId, TenantName


class Status(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    """It never ran: no engine could take it, or a limit kept it out."""


class UsageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger. None: not known, or it did not come to that."""

    request_id: RequestId
    tenant: TenantName
    key_id: KeyId
    model: ModelName
    endpoint: str
    gpu: GpuId | None
    mode: str | None
    """The rule of E2 that placed it."""
    status: Status
    http_status: int
    created_at_s: float
    """When it arrived, seconds since the epoch."""
    prompt_tokens: int
    """0 unless there was output: engines count a prompt with its first token."""
    cached_tokens: int | None
    """Prompt tokens that the engine found in its cache."""
    predicted_cached_tokens: int | None
    """What the scheduler expected of that."""
    output_tokens: int
    attempts: int
    queue_ms: float | None
    """From arrival until it was sent to an engine."""
    ttft_ms: float | None
    """From arrival to the first output, for streamed requests."""
    latency_ms: float
    gpu_ms: float
    """GPU time of all its attempts, as its tenant's turns were charged for it."""
    cost_micros: int | None
    """In millionths of whatever the prices are in; None: there were no prices then."""
    template_id: int | None = None
    """Of the template that it named or, if it named none, begins with."""
    template: str | None = None
    template_version: int | None = None
    template_tokens: int | None = None
    """Of the template, what can be cached."""
    saved_ms: float | None = None
    """GPU time that what was cached of the template has saved."""

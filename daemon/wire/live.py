"""What the console is told as it happens: one `Snapshot`, then a `Tick` every interval, over server-sent events.

Each event's id is its sequence number. Who reconnects with `Last-Event-ID` gets the ticks since, or a new snapshot
if the daemon has been restarted or does not have them any more. Times are ISO 8601, UTC; ages, and what is counted
"of late", are of the feed's `recent_s`. None: not known, or too few to say.
"""

from typing import Literal

import msgspec

RequestState = Literal["waiting", "running", "streaming", "finished", "failed", "cancelled", "refused"]
"""`streaming`: its first token has come. The last four are ends."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Some durations: how many, and their percentiles in milliseconds; these are None below 20 of them."""

    count: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class LiveGpu(msgspec.Struct, frozen=True, kw_only=True):
    """One engine now."""

    gpu: str
    state: str
    """As in `GpuRow`."""
    draining: bool
    detail: str
    model: str
    running: int
    waiting: int
    kv_used_ratio: float | None
    """Share of its KV blocks that running requests hold."""
    kv_cached_ratio: float | None
    """Share of its KV blocks that hold a prefix, in use or not."""
    cached_tokens: int
    hit_ratio: float | None
    """Of late, share of prompt tokens found cached."""
    load_ms: float
    """E2's L."""
    outstanding_ms: float
    decode_ratio: float
    """Share of decoding in the load."""
    ttft: Spread
    evicted_blocks_per_s: float
    prefill_error_ratio: float | None
    decode_error_ratio: float | None
    restarts: int
    uptime_s: float | None
    age_s: float | None
    """Since the engine was last heard of."""
    tenants: dict[str, float]
    """Of late, the tenants that used it most, by their share of its GPU time; five at most."""


class LiveTenant(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant now."""

    tenant: str
    priority: str
    weight: float
    suspended: bool
    share_ratio: float | None
    """Of late, its share of the GPU time that all tenants used."""
    due_ratio: float | None
    """The share that its weight gives it among the tenants that wanted something of late."""
    credit_ms: float | None
    """GPU time that it may use before it has to stand back; below zero it stands back. None without such fairness."""
    running: int
    waiting: int
    queue: Spread
    ttft: Spread
    requests_per_min: float
    tokens_per_min: float
    """Prompt and output."""
    hit_ratio: float | None
    saved_tokens_per_min: float
    """Prompt tokens that were found cached."""
    budget_used_ratio: float | None
    """Of its daily or monthly token budget, whichever is nearer its end; None if it has none."""
    refused: dict[str, int]
    """Of late, its refused requests by the limit that refused them, or by the error's code."""


class LiveTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """All requests together, of late."""

    arrived_per_s: float
    ended_per_s: float
    refused_per_s: float
    running: int
    waiting: int
    ttft: Spread
    tpot: Spread
    queue: Spread
    worst_tenant: str | None
    """The one with the longest p99 TTFT; if there are no streams to tell, with the longest wait in the queue."""
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    hit_ratio: float | None
    modes: dict[str, float]
    """Share of decisions by the rule that made them."""
    moved_ratio: float | None
    """Share of requests that were moved, or replicated a prefix, after they had been placed."""
    belief_error_ratio: float | None
    """Mean difference of predicted and actual cached tokens, by the prompt tokens."""
    decision_p50_us: float | None
    decision_p99_us: float | None
    jain_index: float | None
    """Of the tenants' service by weight, over those that were backlogged."""
    service_gap_ms: float | None
    """The largest difference of two backlogged tenants' service by weight."""


class LiveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request's latest state; each one replaces the one before with the same id."""

    request_id: str
    at: str
    """When it arrived."""
    tenant: str
    model: str
    template: str | None
    """The version that it named or begins with, as `NAME@VERSION`; known once it has ended."""
    state: RequestState
    gpu: str | None
    mode: str | None
    prompt_tokens: int
    predicted_cached_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    attempts: int
    queue_ms: float | None
    ttft_ms: float | None
    latency_ms: float | None
    error: str | None


def reference_of(name: str, version: int) -> str:
    """A version of a template as the command line has it."""
    return f"{name}@{version}"


class TemplateKey(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a template: several owners may have templates of the same name."""

    owner: str | None
    """None: the operator's, shared by all tenants."""
    name: str
    version: int

    @property
    def reference(self) -> str:
        """As the command line has it."""
        return reference_of(self.name, self.version)


class LiveTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a registered prompt template that was used or is pinned."""

    key: TemplateKey
    cacheable_tokens: int
    requests_per_min: float
    hit_ratio: float | None
    saved_tokens_per_min: float
    pinned: bool
    states: dict[str, str]
    """By GPU, for the tenant who has most of it there: cold, warming, warm, partial or stale. Of those that are not
    pinned it is only known where they are warm."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the daemon's log, without secrets."""

    at: str
    level: str
    event: str
    fields: dict[str, str]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs a human."""

    severity: Literal["warning", "critical"]
    kind: Literal["gpu", "tenant", "daemon"]
    name: str
    """Of the GPU or tenant; `preble` for the daemon itself."""
    text: str
    since: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """Everything, as it was at one moment."""

    sequence: int
    boot_id: str
    """Another one after each start of the daemon."""
    at: str
    started_at: str
    version: str
    name: str
    """What the operator calls this daemon, or its host."""
    interval_ms: int
    recent_s: float
    models: list[str]
    policy: str
    fairness: str
    gpus: list[LiveGpu]
    tenants: list[LiveTenant]
    templates: list[LiveTemplate]
    traffic: LiveTraffic
    alarms: list[Alarm]
    requests: list[LiveRequest]
    """The latest, oldest first."""
    logs: list[LogLine]
    """The latest, oldest first."""
    history: dict[str, list[float | None]]
    """Of the last hour, evenly spaced, oldest first; one point per `history_step_s`. Its names: ttft_p50_ms,
    ttft_p99_ms, latency_p50_ms, latency_p99_ms, hit_ratio, arrived_per_s, waiting, running, and load_ms/GPU and
    kv_cached_ratio/GPU for each GPU."""
    history_step_s: float


class Tick(msgspec.Struct, frozen=True, kw_only=True, tag="tick"):
    """What has changed since the event before. Rows replace those of the same name, or key; `gone` ones are no more."""

    sequence: int
    boot_id: str
    at: str
    gpus: list[LiveGpu]
    tenants: list[LiveTenant]
    templates: list[LiveTemplate]
    traffic: LiveTraffic
    alarms: list[Alarm]
    """All there are."""
    requests: list[LiveRequest]
    logs: list[LogLine]
    gone_gpus: list[str]
    gone_tenants: list[str]
    gone_templates: list[TemplateKey]
    dropped_requests: int
    """Changes of requests that were too many to tell since the event before."""
    dropped_logs: int


LiveEvent = Snapshot | Tick


class PrefixRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of blocks that prompts share, in the prefix index."""

    id: str
    """Of its last block; for as long as the stretch is not split."""
    parent: str | None
    tokens: int
    """Of this stretch alone."""
    depth_tokens: int
    """From the prompt's start to the stretch's end."""
    children: int
    requests: int
    """Sent through it within E2's window."""
    by_gpu: dict[str, int]
    """The same by GPU."""
    reported_tokens: dict[str, int]
    """Of this stretch, what each GPU has reported to cache; absent: none."""
    believed: list[str]
    """GPUs that were sent it and have not reported it yet."""
    active: dict[str, int]
    """Requests that run there and hold it."""
    tenant: str | None
    """Whose requests last came through it, where its cache is its own."""
    template: str | None
    """The one whose cacheable prefix ends in this stretch, as `NAME@VERSION`: of several the longest. Only those are
    known that were used or warmed since the daemon was started."""
    expected_output_tokens: float | None


class PrefixPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a prefix's continuations, those with most requests first."""

    rows: list[PrefixRow]
    total: int
    next: str | None
    """Where the next page starts; None on the last."""


class PrefixText(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a stretch, as far as it is known; reading it is recorded in the audit."""

    id: str
    text: str
    truncated: bool


class WhatIf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question about a decision that has been made: what if these had not been there?"""

    without: list[str]
    """GPUs."""

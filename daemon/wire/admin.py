"""What operators see of requests and engines, over HTTP and in the command line's JSON. Times are ISO 8601, UTC."""

import msgspec


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request in the ledger."""

    request_id: str
    tenant: str
    key_id: str
    model: str
    endpoint: str
    gpu: str | None
    mode: str | None
    status: str
    http_status: int
    created_at: str
    prompt_tokens: int
    cached_tokens: int | None
    predicted_cached_tokens: int | None
    output_tokens: int
    attempts: int
    queue_ms: float | None
    ttft_ms: float | None
    latency_ms: float
    gpu_ms: float | None
    """GPU time; None where it is not told: to a tenant that shares its prefixes with others."""
    cost: float | None
    """In what the prices are in; None: there were no prices when it ended."""
    template: str | None
    """That it named; if it named none, the one with the longest prefix that it begins with."""
    template_version: int | None
    saved_ms: float | None
    """GPU time that what was cached of the template has saved; None where that is not told, as `gpu_ms`."""


class UsageTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What was used in all: by a tenant, with a key, of a model, or within an hour, a day or a month."""

    tenant: str | None = None
    """None, here and in the next three: they are not summed by it."""
    key_id: str | None = None
    model: str | None = None
    start: str | None = None
    """When the hour, day or month began."""
    requests: int
    finished: int
    failed: int
    cancelled: int
    refused: int
    prompt_tokens: int
    cached_tokens: int | None
    """None where it is not told: to a tenant that shares its prefixes with others."""
    output_tokens: int
    gpu_ms: float | None
    """None as `cached_tokens`, from which it follows."""
    cost: float | None
    """In what the prices are in; None: there were no prices."""
    mean_ttft_ms: float | None
    """Of streamed requests."""
    mean_latency_ms: float | None


class UsagePage(msgspec.Struct, frozen=True, kw_only=True):
    """Requests, newest first, and the totals of all that match, on this page or not.

    Where they are asked for `by` something, there are no requests, and the totals are on pages.
    """

    rows: list[UsageRow]
    totals: list[UsageTotals]
    next: int | None = None
    """The `offset` of the next page; None: this is the last one."""


class GpuRow(msgspec.Struct, frozen=True, kw_only=True):
    """One engine."""

    gpu: str
    state: str
    model: str
    running: int
    waiting: int
    kv_used_ratio: float | None
    """Share of its KV blocks that running requests hold."""
    hit_ratio: float | None
    """Share of prompt tokens that it has found cached since it started."""
    load_ms: float
    """E2's L: prefill and decode time it was given within the window."""
    ttft_p50_ms: float | None
    """Of its latest streamed requests."""
    pid: int | None
    restarts: int
    uptime_s: float | None
    indexed_blocks: int
    """KV blocks it is known to cache."""
    draining: bool
    detail: str
    """Why it is in its state, when that is not plain."""
    outstanding_ms: float = 0.0
    """Prefill and decode time that it was given and has not spent yet."""
    prefill_error_ratio: float | None = None
    """Of late, the mean difference of predicted and observed prefill times, by the observed ones."""
    decode_error_ratio: float | None = None
    """Likewise of decode steps."""
    return_hit_ratio: float | None = None
    """Of its model's sessions that came back from tools, the share that found their whole prefix cached."""


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as E2 saw it for one request; `cost_ms` is what the policy went by."""

    gpu: str
    cached_tokens: int
    missed_tokens: int
    load_ms: float
    evict_ms: float
    prefill_ms: float
    wait_ms: float
    """Prefill of what waited or ran there, which came first."""
    decode_ms: float
    """Its own decoding, and how much longer it would make that of the others there."""
    requests: int
    """Waiting or running there."""
    cost_ms: float
    holds_prefix: bool
    decode_ratio: float


class Actual(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request."""

    status: str
    cached_tokens: int | None
    output_tokens: int
    queue_ms: float | None
    ttft_ms: float | None
    latency_ms: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request went where it went, and what then happened; or what would become of one that was not run."""

    request_id: str
    model: str
    gpu: str
    mode: str
    reason: str
    prompt_tokens: int
    predicted_cached_tokens: int
    candidates: list[CandidateRow]
    attempts: int
    decided_at: str
    actual: Actual | None
    """None: it was not run."""
    predicted_output_tokens: int | None = None
    """Of all its sequences; None in explanations from before this was kept."""
    tenant: str | None = None
    """Whose it is; None in explanations from before this was kept."""


class CancelledRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has been told to end."""

    request_id: str


class ExplanationPage(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions, newest first."""

    rows: list[Explanation]
    next: int | None
    """`after` of the next page; None: this is the last."""

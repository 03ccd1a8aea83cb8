"""A request as the API took it, what its client gets, and what became of it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from preble.daemon.ids import BlockKey, KeyId, ModelName, RequestId, TenantName
from preble.daemon.sched.types import Decision, RequestSpec
from preble.daemon.templates.using import Named
from preble.daemon.tenancy.ledger import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as the API took it: checked as far as the daemon needs, and otherwise the client's own words."""

    request_id: RequestId
    tenant: TenantName
    key_id: KeyId
    path: str
    """The engine's route, which is also ours."""
    model: ModelName
    body: bytes
    """What the engine gets."""
    stream: bool
    hide_usage: bool
    """The engine is told to append a usage event for which the client has not asked."""
    hide_cache: bool
    """The client is not to learn what of its prompt was cached: that would tell what other tenants have asked."""
    encode: Callable[[], Awaitable[RequestSpec]]
    """Makes the `RequestSpec`: a coroutine function, since long prompts are encoded off the event loop."""
    asks_length: bool
    """The client says how long its answer may be."""
    shortened: Callable[[int], bytes]
    """The body with an answer of at most so many tokens of each sequence."""
    template: Named | None = None
    salt: str | None = None
    """Of the cache that it finds its prefix in. None: it is nobody's use of a template, whatever it begins with."""
    engine_ids: tuple[str, ...]
    """The engine's own ids of the request, for aborting it."""
    received_s: float
    """When the request came in, on the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client gets, from the moment there is something to send."""

    headers: Mapping[str, str]
    content_type: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a request: the material of its ledger row, its explanation, its metrics and its log line."""

    call: Call
    status: Status
    http_status: int
    error: str | None
    error_code: str | None
    limit: str | None
    """The limit that refused it."""
    received_at_s: float
    """Seconds since the epoch."""
    decision: Decision | None
    attempts: int
    prompt_tokens: int
    """As engines count: 0 unless there was output."""
    cached_tokens: int | None
    output_tokens: int
    gpu_ms: float
    queue_ms: float | None
    ttft_ms: float | None
    latency_ms: float
    block_keys: tuple[BlockKey, ...] = ()
    """Of its prompt, if that was made."""

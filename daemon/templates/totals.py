"""What a version of a template saved a tenant."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateTotals:
    """Sums over requests that named it, or begin with it."""

    template_id: int
    number: int
    tenant: str
    requests: int
    prefix_tokens: int
    """That could have been cached."""
    cached_tokens: int
    """Of those, that were."""
    saved_us: int
    """GPU time that was not spent on them."""
    hit_ttfts: int
    """Streamed requests that found most of it cached, and the sum of their times to first token."""
    hit_ttft_us: int
    miss_ttfts: int
    miss_ttft_us: int
    last_used_s: float
    """Seconds since the epoch."""

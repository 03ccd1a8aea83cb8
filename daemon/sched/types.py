"""The values that the scheduler takes and gives. Frozen; ids and units in the names."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from preble.daemon.ids import AttemptId, BlockKey, GpuId, ModelName, RequestId, TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as an engine caches it.

    `block_keys` has one chain key per *full* block of the model's block size, first block first
    (see `sched.blocks`); a tail shorter than a block has no key.
    """

    n_tokens: int
    block_keys: tuple[BlockKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpec:
    """What the scheduler needs to know of a request."""

    request_id: RequestId
    model: ModelName
    tenant: TenantName
    prompt: Prompt
    max_output_tokens: int
    """The most it can produce per sequence: the client's cap, or what is left of the context."""
    n_sequences: int = 1
    """Sequences it runs in the engine at once (`n`, times the prompts of a batch)."""
    warms: GpuId | None = None
    """It only brings its prompt into the cache of this GPU: it runs nowhere else, and waits as batch work does."""

    @property
    def lane(self) -> TenantName:
        """Whose turn it waits for: its tenant's, or that of what is warmed up for its tenant."""
        return self.tenant if self.warms is None else TenantName(f"{self.tenant}:warm")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What one engine can take, as it reported or was told at its start."""

    block_size: int
    """Tokens per KV block."""
    kv_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    """Tokens it computes in one step."""
    max_model_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeModel:
    """How long one engine takes. Monotone and non-negative for non-negative coefficients (checked).

    Prefill time is close to linear in the prompt, with a quadratic attention part (paper, appendix B).
    """

    prefill_base_ms: float
    prefill_ms_per_token: float
    prefill_ms_per_token2: float = 0.0
    decode_base_ms: float = 0.0
    """Of a step that decodes one token of each running sequence, the part that they share."""
    decode_ms_per_sequence: float

    def __post_init__(self) -> None:
        coefficients = (
            self.prefill_base_ms,
            self.prefill_ms_per_token,
            self.prefill_ms_per_token2,
            self.decode_base_ms,
            self.decode_ms_per_sequence,
        )
        assert min(coefficients) >= 0, f"time model must not be negative: {self}"

    def prefill_ms(self, n_tokens: int) -> float:
        """Time to prefill `n_tokens` uncached tokens; 0 for none."""
        if n_tokens <= 0:
            return 0.0
        return self.prefill_base_ms + n_tokens * (self.prefill_ms_per_token + n_tokens * self.prefill_ms_per_token2)

    def decode_ms(self, n_tokens: float, batch: float = 1.0) -> float:
        """One sequence's share of the time to decode `n_tokens` tokens of it among `batch` sequences."""
        return n_tokens * (self.decode_base_ms / batch + self.decode_ms_per_sequence)


class Mode(StrEnum):
    """Which rule placed a request."""

    EXPLOIT = "exploit"
    """Most of the prompt is cached somewhere: the cheapest GPU that caches its biggest part (Algorithm 1)."""
    EXPLORE = "explore"
    """Most of it would be computed anyway: the cheapest GPU of all."""
    DECODE_HEAVY = "decode_heavy"
    """An explored request that went to a GPU busy with decoding (section 3.2)."""
    REBALANCE = "rebalance"
    """Most of it is cached somewhere, but whoever caches it has far too much to do (section 3.2)."""
    REPLICATE = "replicate"
    """Most of it is cached somewhere, but requests with its biggest part wait ever longer there (section 3.2)."""
    WARM = "warm"
    """It brings a registered prefix into the cache of a GPU that was chosen before."""
    MOVED = "moved"
    """It waited elsewhere until this GPU had nothing to do."""
    ROUND_ROBIN = "round_robin"
    """Of the policy of that name."""
    LEAST_LOADED = "least_loaded"
    """Fewest requests waiting or running."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # made for every GPU of every decision
    """One GPU as E2 saw it for one request. Costs are milliseconds of GPU time (Algorithm 2)."""

    gpu: GpuId
    cached_tokens: int
    missed_tokens: int
    load_ms: float
    """L: what the GPU was given within the window."""
    evict_ms: float
    """M: what making room for the request would lose."""
    prefill_ms: float
    """P: computing the missed tokens."""
    wait_ms: float
    """W: prefill of what waits or runs there, which comes first."""
    decode_ms: float
    """D: its own decoding there, and how much longer it makes that of the sequences that run there."""
    cost_ms: float
    """What the policy goes by: L + M + P for the paper's E2, what it costs all requests for ours."""
    holds_prefix: bool
    """Whether it caches what is exploited: about the longest prefix (ours), or the biggest part (the paper's)."""
    decode_ratio: float
    """Share of decoding in its load, 0 to 1."""
    requests: int = 0
    """Waiting or running there."""
    resident_blocks: int = 0
    """In its cache."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a request goes, and every reason for it."""

    request_id: RequestId
    attempt_id: AttemptId
    model: ModelName
    gpu: GpuId
    mode: Mode
    reason: str
    """The rule that fired, in words, with its numbers."""
    prompt_tokens: int
    cached_tokens: int
    """Predicted for the chosen GPU."""
    expected_output_tokens: int
    """Of all its sequences."""
    candidates: tuple[Candidate, ...]
    """In the order of GPU names."""
    decided_s: float
    """The machine's clock."""

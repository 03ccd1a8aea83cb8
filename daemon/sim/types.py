"""What a simulation is made of. Prompts are described by what they contain, since only sameness matters to a cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from preble.daemon.ids import GpuId, RequestId, TenantName


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens; pieces of the same content number are the same tokens, up to the shorter one's length."""

    content: int
    n_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimRequest:
    """One request of a workload."""

    request_id: RequestId
    tenant: TenantName
    at_s: float
    """When it arrives, in seconds from the start; of a session's later requests, seconds after the end of the last."""
    prompt: tuple[Piece, ...]
    output_tokens: int
    output_content: int
    """The content number of its answer, which a later prompt of the session may repeat."""
    max_output_tokens: int
    """The client's cap."""
    calls_tools: bool = False
    """Its answer ends in tool calls, so the session comes back."""
    session: Iterator["SimRequest"] | None = None
    """What the same client sends next, each once the one before has been answered; the first comes after this request.

    A client whose request is refused, fails or is left gives up the rest.
    """

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return sum(piece.n_tokens for piece in self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request. Times are seconds of the virtual clock."""

    request_id: RequestId
    tenant: TenantName
    gpu: GpuId | None
    """None for a request that was refused."""
    arrived_s: float
    dispatched_s: float | None
    first_token_s: float | None
    ended_s: float
    prompt_tokens: int
    predicted_tokens: int
    """Cached tokens as the scheduler expected them."""
    cached_tokens: int
    """Cached tokens as the engine found them."""
    output_tokens: int
    preemptions: int = 0
    returned: bool = False
    """It came back to a session after tool calls."""
    complete: bool = True
    """It was answered to its end: not refused, nor failed, nor left by its client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one GPU does at one moment."""

    at_s: float
    gpu: GpuId
    waiting: int
    """Requests in the daemon that wait for it."""
    queued: int
    """Requests in its engine that have not begun, or were preempted."""
    running: int
    kv_held_ratio: float
    """KV blocks that requests hold, of all."""
    kv_cached_ratio: float
    """KV blocks that can be hit, of all, held or not."""

"""One try of a request on one engine, and what an engine looks like from outside."""

from dataclasses import dataclass

import msgspec

from preble.daemon.ids import AttemptId, GpuId, ModelName
from preble.daemon.sched.index import Node
from preble.daemon.sched.timefit import FitError
from preble.daemon.sched.types import Decision, RequestSpec, TimeModel
from preble.daemon.sched.window import Given


class Attempt(msgspec.Struct, kw_only=True, eq=False):
    """One try of a request on one engine, from placement to its end. Mutable, and owned by its `Engine`."""

    attempt_id: AttemptId
    spec: RequestSpec
    number: int
    """1 for the first try."""
    decision: Decision
    leaf: Node | None
    """Where the prompt's full blocks end in the index; None for a prompt shorter than a block."""
    given: Given
    waits_since_s: float
    """When this try began to wait, wherever that was."""
    running: bool = False
    cancelled: bool = False
    unprefilled_tokens: int = 0
    """Uncached prompt tokens that the engine has yet to compute, while it runs."""
    computed_tokens: int = 0
    """Uncached prompt tokens when it started: what its engine computes of it in all."""
    started_s: float = 0.0
    """When it went to its engine, if it runs."""
    batch: float = 1.0
    """Sequences, its own among them, that its engine is taken to decode at once."""
    charged_ms: float = 0.0
    """GPU time that its tenant has been charged for: what is expected, and once it has ended what it took."""
    private_blocks: int = 0
    """KV blocks it takes, while it runs, beyond its full prompt blocks."""
    prefill_us: int = 0
    """GPU time until its prompt has been computed."""
    decode_us: int = 0
    """GPU time from then to its expected end."""
    lost: bool = False
    """Its engine went down: nothing of it is accounted for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineView:
    """What an engine is doing, for people. A copy, valid at the moment it was made."""

    gpu: GpuId
    model: ModelName
    up: bool
    draining: bool
    running: int
    waiting: int
    sequences: int
    """Of the running requests: a request may run several."""
    held_blocks: int
    """KV blocks that running requests hold, or are expected to."""
    load_ms: float
    """L: prefill and decode time given to it within the window."""
    outstanding_ms: float
    """O: prefill and decode time given to it and not spent yet."""
    time_model: TimeModel | None
    """As fitted to what has been seen; None before it was first up."""
    time_error: FitError | None
    decode_ratio: float
    resident_blocks: int
    kv_blocks: int
    block_size: int
    """Tokens per KV block."""
    unprefilled_tokens: int

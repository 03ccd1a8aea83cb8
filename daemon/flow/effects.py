"""What the machine wants done. Effects name the deed; the host does it."""

from enum import StrEnum

import msgspec

from preble.daemon.ids import AttemptId, GpuId, RequestId
from preble.daemon.priority import Priority
from preble.daemon.sched.types import Decision


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A request was given a GPU and now waits for it. To be recorded."""

    decision: Decision


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """Send the request to its engine now."""

    request_id: RequestId
    attempt_id: AttemptId
    gpu: GpuId
    priority: Priority


class Abort(msgspec.Struct, frozen=True, kw_only=True):
    """Stop an attempt in its engine; the host reports `Finished` or `Failed` once it has ended."""

    request_id: RequestId
    attempt_id: AttemptId
    gpu: GpuId


class Refusal(StrEnum):
    """Why a request ends without running."""

    NO_ENGINE = "no_engine"
    QUEUE_FULL = "queue_full"
    TOO_LARGE = "too_large"
    """It needs more KV blocks than any engine of its model has."""
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the client that the request will not run."""

    request_id: RequestId
    why: Refusal


class Outcome(StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The machine has forgotten the request. Exactly one of these per `Arrived`."""

    request_id: RequestId
    outcome: Outcome
    gpu_ms: float = 0.0
    """GPU time that its tenant was charged for, of all its attempts: 0 if it never ran."""


Effect = Placed | Dispatch | Abort | Refuse | Ended

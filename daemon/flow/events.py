"""What can happen to the machine. Facts in the past tense; nothing here decides."""

from dataclasses import dataclass

from preble.daemon.ids import AttemptId, BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.types import EngineLimits, RequestSpec, TimeModel


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUp:
    """An engine is ready. Its cache is empty as far as anyone knows; KV reports of this `epoch` follow."""

    gpu: GpuId
    model: ModelName
    epoch: int
    """Counts the starts of this engine; reports of an older epoch are ignored."""
    limits: EngineLimits
    time_model: TimeModel


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDown:
    """An engine ended, hung or is being stopped. What it cached is gone."""

    gpu: GpuId


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainChanged:
    """An operator drains a GPU (nothing new is placed there) or puts it back to work."""

    gpu: GpuId
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStands:
    """A tenant is new, or an operator changed its weight or its class."""

    tenant: TenantName
    weight: float
    is_batch: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A request is ready to be placed."""

    request: RequestSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """An attempt has produced output, so its whole prompt has been computed."""

    attempt_id: AttemptId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An attempt ended well, or was cut short by an abort after which the engine told its usage."""

    attempt_id: AttemptId
    output_tokens: int
    calls_tools: bool = False
    """The answer ends in tool calls, so its session will be back with their results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An attempt ended badly."""

    attempt_id: AttemptId
    retry: bool
    """The engine failed before any output left the daemon: the request may run again elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGone:
    """Nobody waits for this request any more (left, or timed out)."""

    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksStored:
    """An engine put blocks into its prefix cache."""

    keys: tuple[BlockKey, ...]
    parent: BlockKey | None
    """The block before the first one; None at the start of a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksRemoved:
    """An engine evicted blocks."""

    keys: tuple[BlockKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksCleared:
    """An engine emptied its cache, or its reports were lost beyond repair and start anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinChanged:
    """A prefix is to stay in the cache of a GPU, or need not any more."""

    model: ModelName
    gpu: GpuId
    keys: tuple[BlockKey, ...]
    pinned: bool


KvChange = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(frozen=True, slots=True, kw_only=True)
class KvReported:
    """What changed in an engine's prefix cache, in order."""

    gpu: GpuId
    epoch: int
    changes: tuple[KvChange, ...]


Event = (
    EngineUp
    | EngineDown
    | DrainChanged
    | TenantStands
    | Arrived
    | FirstToken
    | Finished
    | Failed
    | ClientGone
    | KvReported
    | PinChanged
)

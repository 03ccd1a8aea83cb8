"""Short names for building the core's values in tests."""

import msgspec
import numpy as np

from preble.daemon.config import SchedulerConfig
from preble.daemon.flow import events
from preble.daemon.flow.effects import Dispatch, Placed
from preble.daemon.flow.machine import Machine
from preble.daemon.ids import BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.blocks import BlockHasher, root_key
from preble.daemon.sched.types import EngineLimits, Prompt, RequestSpec, TimeModel

MODEL = ModelName("m")
BLOCK = 4
LIMITS = EngineLimits(block_size=BLOCK, kv_blocks=1000, max_num_seqs=8, max_num_batched_tokens=100, max_model_len=2000)
TIMES = TimeModel(prefill_base_ms=1.0, prefill_ms_per_token=1.0, decode_ms_per_sequence=1.0)
CONFIG = SchedulerConfig(window_s=180.0, expected_output_tokens=4, prefill_lead_tokens=200, max_waiting_requests=50)
PAPER = msgspec.structs.replace(CONFIG, policy="e2_paper")
HASHER = BlockHasher(BLOCK)


def tokens(text: str) -> np.ndarray:
    """One token per letter."""
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32)


def keys(text: str, salt: str = "") -> tuple[BlockKey, ...]:
    return tuple(HASHER.chain(root_key(MODEL, salt=salt), tokens(text)))


def spec(
    name: str, text: str, *, max_output_tokens: int = 16, n_sequences: int = 1, model: str = MODEL, tenant: str = "t"
) -> RequestSpec:
    return RequestSpec(
        request_id=RequestId(name),
        model=ModelName(model),
        tenant=TenantName(tenant),
        prompt=Prompt(n_tokens=len(text), block_keys=keys(text)),
        max_output_tokens=max_output_tokens,
        n_sequences=n_sequences,
    )


def up(gpu: str, *, epoch: int = 1, limits: EngineLimits = LIMITS, model: str = MODEL) -> events.EngineUp:
    return events.EngineUp(gpu=GpuId(gpu), model=ModelName(model), epoch=epoch, limits=limits, time_model=TIMES)


def stored(gpu: str, text: str, *, epoch: int = 1, after: str = "", salt: str = "") -> events.KvReported:
    """The report that a GPU caches `text`, which follows `after`."""
    n_before = len(after) // BLOCK
    chain = keys(after + text, salt)
    change = events.BlocksStored(keys=chain[n_before:], parent=chain[n_before - 1] if n_before else None)
    return events.KvReported(gpu=GpuId(gpu), epoch=epoch, changes=(change,))


def removed(gpu: str, *texts: str, epoch: int = 1) -> events.KvReported:
    change = events.BlocksRemoved(keys=tuple(keys(text)[-1] for text in texts))
    return events.KvReported(gpu=GpuId(gpu), epoch=epoch, changes=(change,))


class Bench:
    """A machine with a clock that moves by hand, and the little a test wants of its effects."""

    def __init__(self, *gpus: str, config: SchedulerConfig = CONFIG, limits: EngineLimits = LIMITS) -> None:
        self.machine = Machine(config)
        self.now_s = 0.0
        self.seen = []
        for gpu in gpus:
            self(up(gpu, limits=limits))

    def __call__(self, event):
        effects = self.machine.step(event, self.now_s)
        self.seen += effects
        return effects

    def arrive(self, name: str, text: str, **more):
        """The decision for a new request."""
        effects = self(events.Arrived(request=spec(name, text, **more)))
        return next(effect.decision for effect in effects if isinstance(effect, Placed))

    def preview(self, name: str, text: str, **more):
        """What would be decided about a new request."""
        return self.machine.preview(spec(name, text, **more), self.now_s)

    def finish(self, decision, output_tokens: int = 4):
        self(events.FirstToken(attempt_id=decision.attempt_id))
        return self(events.Finished(attempt_id=decision.attempt_id, output_tokens=output_tokens))

    def run(self, name: str, text: str, **more):
        """A request from arrival to its end, on an engine that reports what it cached."""
        decision = self.arrive(name, text, **more)
        self(stored(decision.gpu, text))
        self.finish(decision)
        return decision

    def dispatched(self) -> list[str]:
        return [effect.request_id for effect in self.seen if isinstance(effect, Dispatch)]

    def view(self, gpu: str):
        return next(view for view in self.machine.views(self.now_s) if view.gpu == gpu)

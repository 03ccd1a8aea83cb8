"""All engines and what they cache: places requests by E2.

It knows where requests should go and what that costs; the life of a request is the machine's (`flow.machine`).
"""

from collections.abc import Sequence
from itertools import count

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import AttemptId, GpuId, ModelName
from preble.daemon.sched.e2 import choose
from preble.daemon.sched.engine import Attempt, Engine
from preble.daemon.sched.index import PrefixIndex
from preble.daemon.sched.types import Decision, EngineLimits, RequestSpec, TimeModel
from preble.daemon.sched.window import LoadWindow


class Scheduler:
    """E2 over every engine of every model. All times are the caller's."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.engines: dict[GpuId, Engine] = {}
        """By name, in the order of names."""
        self._config = config
        self._indexes: dict[ModelName, PrefixIndex] = {}
        self._attempt_ids = count(1)

    def engine_up(
        self, gpu: GpuId, model: ModelName, epoch: int, limits: EngineLimits, time_model: TimeModel
    ) -> Engine:
        """An engine is ready, with an empty cache. Its load window outlives restarts."""
        engine = self.engines.get(gpu)
        if engine is None:
            window = LoadWindow(self._config.window_s, self._config.expected_output_tokens)
            engine = Engine(gpu, model, self.index(model), window, self._config.prefill_lead_steps)
            self.engines = dict(sorted({**self.engines, gpu: engine}.items()))
        assert engine.model == model, f"{gpu} serves {engine.model}, not {model}"
        engine.start(epoch, limits, time_model)
        return engine

    def index(self, model: ModelName) -> PrefixIndex:
        """What the model's engines cache."""
        return self._indexes.setdefault(model, PrefixIndex())

    def serving(self, model: ModelName) -> list[Engine]:
        """The model's engines that take new requests, in the order of names."""
        return [engine for engine in self.engines.values() if engine.model == model and engine.takes_new]

    # --- placing ---

    def place(self, spec: RequestSpec, number: int, now_s: float) -> Attempt:
        """Choose an engine for try `number` of a request and let it wait there. Some engine must be serving it."""
        engines = self.serving(spec.model)
        attempt_id = AttemptId(next(self._attempt_ids))
        decision = self._decide(spec, engines, attempt_id, now_s)
        engine = self.engines[decision.gpu]
        leaf = self.index(spec.model).insert(spec.prompt.block_keys)
        prefill_ms = engine.time_model.prefill_ms(decision.prompt_tokens - decision.cached_tokens)
        given = engine.give(now_s, prefill_ms, leaf)
        attempt = Attempt(attempt_id=attempt_id, spec=spec, number=number, decision=decision, leaf=leaf, given=given)
        engine.enqueue(attempt)
        return attempt

    def _decide(self, spec: RequestSpec, engines: Sequence[Engine], attempt_id: AttemptId, now_s: float) -> Decision:
        index = self.index(spec.model)
        for engine in engines:
            engine.age(now_s)
        stretches = index.match(spec.prompt.block_keys)
        biggest = index.biggest_cached(stretches, [engine.gpu for engine in engines])
        candidates = tuple(engine.candidate(spec, stretches, biggest) for engine in engines)
        choice = choose(candidates, self._config.decode_imbalance_ratio)
        return Decision(
            request_id=spec.request_id,
            attempt_id=attempt_id,
            model=spec.model,
            gpu=choice.chosen.gpu,
            mode=choice.mode,
            reason=choice.reason,
            prompt_tokens=spec.prompt.n_tokens,
            cached_tokens=choice.chosen.cached_tokens,
            candidates=candidates,
            decided_s=now_s,
        )

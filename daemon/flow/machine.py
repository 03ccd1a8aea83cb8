"""All decisions about requests, and nothing else: which engine, when, and how each request ends.

`Machine.step` takes what happened and the time, and returns what is to be done. It has no clock, no I/O and no
chance in it, so the daemon and a simulation host the same code, and the same events give the same effects.
"""

from collections.abc import Collection, Sequence

from preble.daemon.config import SchedulerConfig
from preble.daemon.flow.effects import Abort, Dispatch, Effect, Ended, Outcome, Placed, Refusal, Refuse
from preble.daemon.flow.events import (
    Arrived,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    ClientGone,
    DrainChanged,
    EngineDown,
    EngineUp,
    Event,
    Failed,
    Finished,
    FirstToken,
    KvReported,
    PinChanged,
    TenantStands,
)
from preble.daemon.flow.foresight import Foresight, foresee
from preble.daemon.flow.prefixes import Listing, prefix_page
from preble.daemon.ids import AttemptId, BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.attempt import Attempt, EngineView
from preble.daemon.sched.browse import Browser, Owners, Stretch
from preble.daemon.sched.chains import reported_blocks
from preble.daemon.sched.engine import Engine
from preble.daemon.sched.index import PrefixIndex
from preble.daemon.sched.pinning import Pinnings
from preble.daemon.sched.returns import ReturnCounts
from preble.daemon.sched.scheduler import Scheduler
from preble.daemon.sched.types import Decision, RequestSpec, TimeModel
from preble.daemon.tenancy.fair import make_turns
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import PrefixPage


class Machine:
    """Owns the scheduler and every live request. Driven by one host; never shared between threads.

    A request is *live* from `Arrived` to its one `Ended`. A live request is waiting at an engine, running there, or
    parked: its engine died and no other serves its model yet.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._turns = make_turns(config)
        self._scheduler = Scheduler(config, self._turns)
        self._pinnings: dict[ModelName, Pinnings] = {}
        self._live: dict[RequestId, Attempt] = {}
        """The latest attempt of each live request."""
        self._by_attempt: dict[AttemptId, Attempt] = {}
        self._parked: dict[RequestId, Attempt] = {}
        self._gpu_ms: dict[RequestId, float] = {}
        """GPU time of the attempts of live requests that are over."""
        self._draining: set[GpuId] = set()
        self._browser, self._owners = Browser(), Owners()
        self._now_s = float("-inf")
        self._effects: list[Effect] = []
        """Of the step that is under way."""

    def step(self, event: Event, now_s: float) -> tuple[Effect, ...]:
        """Advance by one event. `now_s` is monotonic seconds and must not decrease."""
        assert now_s >= self._now_s, f"time went back from {self._now_s} to {now_s}"
        self._now_s = now_s
        self._scheduler.age(now_s)
        self._effects = []
        self._react(event)
        for model in self._scheduler.waited_for:
            self._feed_idle(model)
        return tuple(self._effects)

    @property
    def window_step_s(self) -> float:
        """Load windows pass in steps of so long."""
        return self._scheduler.window_step_s

    def age(self, now_s: float) -> None:
        """Let the load windows pass. Every event does that first; done in between, no request has to wait for it."""
        self._scheduler.age(max(now_s, self._now_s))

    def views(self, now_s: float) -> tuple[EngineView, ...]:
        """Every engine that was ever up, as it is now. Ages the load windows, and changes nothing else."""
        self.age(now_s)
        return tuple(engine.view() for engine in self._scheduler.engines.values())

    def preview(self, spec: RequestSpec, now_s: float) -> Decision | Refusal:
        """What would become of a request that came now. Ages the load windows, and changes nothing else."""
        now_s = max(now_s, self._now_s)
        self._scheduler.age(now_s)
        refusal = self._refusal(spec)
        return refusal if refusal is not None else self._scheduler.preview(spec, now_s)

    def standings(self, tenants: Collection[TenantName]) -> dict[TenantName, Standing]:
        """How these tenants stand, those of them that ever asked for something or were told of."""
        engines = self._scheduler.engines.values()
        served = {name: {e.gpu: e.served_ms[name] for e in engines if name in e.served_ms} for name in tenants}
        found = {name: self._turns.standing(name, served[name]) for name in tenants}
        return {name: standing for name, standing in found.items() if standing is not None}

    def returns(self, model: ModelName) -> ReturnCounts:
        """What became of sessions that called tools."""
        return self._scheduler.returns(model)

    @property
    def live_requests(self) -> int:
        """Requests that have arrived and not ended."""
        return len(self._live)

    def cached_blocks(self, model: ModelName, keys: Sequence[BlockKey]) -> dict[GpuId, int]:
        """Of a prompt's leading blocks, how many each GPU has, or will have once all that was sent there has run."""
        index = self._scheduler.index(model)
        return index.cached_blocks(index.match(keys))

    def foresee(self, gpu: GpuId, now_s: float) -> Foresight | None:
        """What would become of what is at a GPU without it; None if it was never up. Ages the load windows only."""
        now_s = max(now_s, self._now_s)
        self._scheduler.age(now_s)
        engine = self._scheduler.engines.get(gpu)
        return None if engine is None else foresee(self._scheduler, engine, now_s)

    def prefixes(self, model: ModelName, wanted: Listing) -> PrefixPage:
        """What comes behind a stretch of the model's prefix index. Raises `NotFound` and `InvalidRequest`."""
        block_size = self._scheduler.block_size(model)
        index = self._scheduler.index(model) if block_size else PrefixIndex()
        return prefix_page(index, self._browser, self._owners, block_size, wanted)

    def residency(self, model: ModelName, keys: Sequence[BlockKey]) -> dict[GpuId, int]:
        """The same by what engines have reported, or shown by a first token; GPUs that have none are left out."""
        index = self._scheduler.index(model)
        return reported_blocks(index.match(keys))

    def spare_blocks(self, model: ModelName, keys: Sequence[BlockKey], gpu: GpuId, most: int) -> int:
        """About how many blocks a GPU can store before it evicts any of a prompt's; `most`, if they are more."""
        index, engine = self._scheduler.index(model), self._scheduler.engines[gpu]
        free = max(0, engine.limits.kv_blocks - index.resident_blocks(gpu))
        chain = [node for node, _ in index.match(keys)]
        return free if free >= most else free + index.evictable(gpu).blocks_before(chain, most - free)

    def time_model(self, gpu: GpuId) -> TimeModel | None:
        """How long a GPU takes, as far as that is known; None if it was never up."""
        engine = self._scheduler.engines.get(gpu)
        return engine.time_model if engine is not None else None

    def stretch(self, prefix: str) -> Stretch | None:
        """A stretch that was listed; None if it never was, has been split or joined, or is forgotten."""
        node = self._browser.find(prefix)
        return None if node is None else Stretch(keys=tuple(node.keys), tenant=self._owners.of(node))

    def indexed_blocks(self, model: ModelName) -> int:
        """Blocks in the model's prefix index."""
        return len(self._scheduler.index(model))

    def _react(self, event: Event) -> None:
        match event:
            case Arrived(request=spec):
                self._arrive(spec)
            case FirstToken(attempt_id=attempt_id):
                self._first_token(attempt_id)
            case Finished() | Failed():
                self._attempt_ended(event)
            case ClientGone(request_id=request_id):
                self._client_gone(request_id)
            case KvReported():
                self._kv_reported(event)
            case EngineUp():
                self._engine_up(event)
            case EngineDown(gpu=gpu):
                self._engine_down(gpu)
            case TenantStands() | PinChanged():
                self._learn(event)
            case DrainChanged(gpu=gpu, draining=draining):
                self._drain_changed(gpu, draining)

    def _learn(self, told: TenantStands | PinChanged) -> None:
        if isinstance(told, TenantStands):
            self._turns.stand(told.tenant, told.weight, told.is_batch)
            return
        pinnings = self._pinnings.setdefault(told.model, Pinnings(self._scheduler.index(told.model)))
        (pinnings.pin if told.pinned else pinnings.unpin)(told.gpu, told.keys)

    # --- requests ---

    def _arrive(self, spec: RequestSpec) -> None:
        assert spec.request_id not in self._live, f"{spec.request_id} arrived twice"
        refusal = self._refusal(spec)
        if refusal is not None:
            self._effects.append(Refuse(request_id=spec.request_id, why=refusal))
            self._effects.append(Ended(request_id=spec.request_id, outcome=Outcome.REFUSED))
            return
        if spec.prompt.block_keys:
            self._owners.note(spec.prompt.block_keys[0], spec.tenant)
        self._place(spec, number=1)

    def _refusal(self, spec: RequestSpec) -> Refusal | None:
        engines = self._for(spec)
        if not engines:
            return Refusal.NO_ENGINE
        if all(spec.prompt.n_tokens >= e.limits.kv_blocks * e.limits.block_size for e in engines):
            return Refusal.TOO_LARGE
        return None if self._scheduler.has_place(spec) else Refusal.QUEUE_FULL

    def _for(self, spec: RequestSpec) -> list[Engine]:
        """Engines that could take a request now."""
        engines = self._scheduler.serving(spec.model)
        return engines if spec.warms is None else [engine for engine in engines if engine.gpu == spec.warms]

    def _place(self, spec: RequestSpec, number: int) -> None:
        if spec.warms is not None:
            self._turns.stand(spec.lane, self._turns.weight(spec.tenant), is_batch=True)
        self._placed(self._scheduler.place(spec, number, self._now_s))

    def _feed_idle(self, model: ModelName) -> None:
        """Take what waits to where nothing does."""
        while (attempt := self._scheduler.move_to_idle(model, self._now_s)) is not None:
            del self._by_attempt[self._live[attempt.spec.request_id].attempt_id]
            self._placed(attempt)

    def _placed(self, attempt: Attempt) -> None:
        self._live[attempt.spec.request_id] = attempt
        self._by_attempt[attempt.attempt_id] = attempt
        self._effects.append(Placed(decision=attempt.decision))
        engine = self._engine_of(attempt)
        if engine.could_start(attempt):
            self._launch(engine, attempt)
            return
        engine.line_up(attempt)
        if len(engine.waiting) > 1:  # alone, it cannot start yet
            self._start_waiting(engine)

    def _start_waiting(self, engine: Engine) -> None:
        """Hand over, in order, what the engine can start soon."""
        while (attempt := engine.next_to_start()) is not None:
            self._launch(engine, attempt)

    def _launch(self, engine: Engine, attempt: Attempt) -> None:
        priority = self._turns.priority(attempt.spec.lane)
        engine.launch(attempt, priority, self._now_s)
        self._scheduler.started(attempt, self._now_s)
        gpu = attempt.decision.gpu
        request_id = attempt.spec.request_id
        self._effects.append(Dispatch(request_id=request_id, attempt_id=attempt.attempt_id, gpu=gpu, priority=priority))

    def _first_token(self, attempt_id: AttemptId) -> None:
        attempt = self._by_attempt.get(attempt_id)
        if attempt is not None and attempt.running:
            engine = self._engine_of(attempt)
            engine.first_token(attempt, self._now_s)
            self._start_waiting(engine)

    def _attempt_ended(self, event: Finished | Failed) -> None:
        attempt = self._by_attempt.get(event.attempt_id)
        if attempt is None or not attempt.running:
            return
        del self._by_attempt[attempt.attempt_id]
        engine = self._engine_of(attempt)
        output_tokens = event.output_tokens if isinstance(event, Finished) else None
        if isinstance(event, Finished) and not attempt.cancelled:
            self._scheduler.finished(attempt, event.output_tokens, event.calls_tools, self._now_s)
        request_id = attempt.spec.request_id
        gpu_ms = engine.end(attempt, self._now_s, output_tokens)
        self._gpu_ms[request_id] = self._gpu_ms.get(request_id, 0.0) + gpu_ms
        if attempt.cancelled:
            self._end(attempt, Outcome.CANCELLED)
        elif isinstance(event, Finished):
            self._end(attempt, Outcome.FINISHED)
        elif event.retry:
            self._retry(attempt)
        else:
            self._end(attempt, Outcome.FAILED)
        self._start_waiting(engine)

    def _retry(self, attempt: Attempt) -> None:
        if attempt.number >= self._config.max_attempts:
            self._effects.append(Refuse(request_id=attempt.spec.request_id, why=Refusal.ATTEMPTS_EXHAUSTED))
            self._end(attempt, Outcome.FAILED)
        else:
            self._place_again(attempt, number=attempt.number + 1)

    def _place_again(self, attempt: Attempt, number: int) -> None:
        """Find another engine for a live request that has none, or park it until one is up.

        What was to warm an engine that is gone has nothing to do any more.
        """
        self._by_attempt.pop(attempt.attempt_id, None)
        if self._for(attempt.spec):
            self._place(attempt.spec, number)
        elif attempt.spec.warms is not None:
            self._effects.append(Refuse(request_id=attempt.spec.request_id, why=Refusal.NO_ENGINE))
            self._end(attempt, Outcome.FAILED)
        else:
            attempt.running = False
            attempt.number = number
            self._parked[attempt.spec.request_id] = attempt

    def _client_gone(self, request_id: RequestId) -> None:
        attempt = self._live.get(request_id)
        if attempt is None or attempt.cancelled:
            return
        if attempt.running:
            attempt.cancelled = True
            self._effects.append(Abort(request_id=request_id, attempt_id=attempt.attempt_id, gpu=attempt.decision.gpu))
            return
        if self._parked.pop(request_id, None) is None:
            self._engine_of(attempt).withdraw(attempt, self._now_s)
        self._end(attempt, Outcome.CANCELLED)
        self._start_waiting(self._engine_of(attempt))

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        self._by_attempt.pop(attempt.attempt_id, None)
        request_id = attempt.spec.request_id
        del self._live[request_id]
        gpu_ms = self._gpu_ms.pop(request_id, 0.0)
        self._effects.append(Ended(request_id=request_id, outcome=outcome, gpu_ms=gpu_ms))

    def _engine_of(self, attempt: Attempt) -> Engine:
        return self._scheduler.engines[attempt.decision.gpu]

    # --- engines ---

    def _engine_up(self, event: EngineUp) -> None:
        known = self._scheduler.engines.get(event.gpu)
        if known is not None and known.up:
            self._engine_down(event.gpu)
        engine = self._scheduler.engine_up(event.gpu, event.model, event.epoch, event.limits, event.time_model)
        self._scheduler.drain(engine, event.gpu in self._draining)
        self._unpark(event.model)

    def _engine_down(self, gpu: GpuId) -> None:
        engine = self._scheduler.engines.get(gpu)
        if engine is None or not engine.up:
            return
        for attempt in self._scheduler.engine_down(engine, self._now_s):
            self._place_again(attempt, attempt.number)

    def _drain_changed(self, gpu: GpuId, draining: bool) -> None:
        (self._draining.add if draining else self._draining.discard)(gpu)
        engine = self._scheduler.engines.get(gpu)
        if engine is None:
            return
        self._scheduler.drain(engine, draining)
        if not draining:
            self._unpark(engine.model)
        elif self._scheduler.serving(engine.model):  # else what waits here runs here: nobody else could take it
            for attempt in list(engine.waiting):
                self._place_again(engine.withdraw(attempt, self._now_s), attempt.number)

    def _unpark(self, model: ModelName) -> None:
        if not self._scheduler.serving(model):
            return
        for attempt in [a for a in self._parked.values() if a.spec.model == model]:
            del self._parked[attempt.spec.request_id]
            self._place(attempt.spec, attempt.number)

    def _kv_reported(self, report: KvReported) -> None:
        engine = self._scheduler.engines.get(report.gpu)
        if engine is None or not engine.up or engine.epoch != report.epoch:
            return
        index = self._scheduler.index(engine.model)
        for change in report.changes:
            match change:
                case BlocksStored(keys=keys, parent=parent):
                    index.store(engine.gpu, parent, keys)
                case BlocksRemoved(keys=keys):
                    index.remove(engine.gpu, *keys)
                case BlocksCleared():
                    index.clear(engine.gpu)
        engine.note_reported_prefills(self._now_s)
        self._start_waiting(engine)

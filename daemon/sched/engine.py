"""One engine as the scheduler knows it: what it can take, what it was given, what runs there and what waits for it."""

from math import ceil

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import AttemptId, GpuId, ModelName, TenantName
from preble.daemon.priority import Priority
from preble.daemon.sched.answers import Answers
from preble.daemon.sched.asked import Asked
from preble.daemon.sched.attempt import Attempt, EngineView
from preble.daemon.sched.blocks import reusable_tokens
from preble.daemon.sched.fairline import FairLine
from preble.daemon.sched.index import Node, PrefixIndex
from preble.daemon.sched.loss import NO_LOSS, loss_by_chance, loss_by_uses
from preble.daemon.sched.observer import Observer
from preble.daemon.sched.policies import Traits
from preble.daemon.sched.pool import Pool
from preble.daemon.sched.prefills import Prefills
from preble.daemon.sched.service import Service
from preble.daemon.sched.shares import Shares
from preble.daemon.sched.timefit import TimeFit
from preble.daemon.sched.types import Candidate, EngineLimits, TimeModel
from preble.daemon.sched.window import Given, LoadWindow

_BATCH_WEIGHT = 0.1
"""Of the batch that an attempt ends in, in the engine's usual one: it follows over some ten requests."""

_KEPT_WAITING = 0.5
"""Of those who wait or run at an engine, so many wait for the prefill of the next one: others start or end before."""


class Engine:
    """Accounts of one engine: load, cache names, running attempts, and the queue before it."""

    def __init__(
        self,
        gpu: GpuId,
        model: ModelName,
        index: PrefixIndex,
        window: LoadWindow,
        pool: Pool,
        traits: Traits,
        config: SchedulerConfig,
        limits: EngineLimits,
        time_model: TimeModel,
    ) -> None:
        self.gpu = gpu
        self.model = model
        self.up = False
        self.draining = False
        self.epoch = 0
        self.waiting: FairLine[Attempt] = FairLine(self._cached_share, pool.turns, grouped=traits.grouped)
        self.running: dict[AttemptId, Attempt] = {}
        self._requests = 0
        """That wait or run."""
        self._prefills = Prefills(gpu, index, pool.turns, config)
        self._answers = Answers(limits.block_size)
        self._index = index
        self._evictable = index.evictable(gpu)
        self.window = window
        self._pool = pool
        self._shares = Shares(pool.turns)
        self._traits = traits
        self._config = config
        self._service = Service(config.cached_charge_ratio)
        self.limits = limits
        """What the engine said it can take."""
        self._fit = TimeFit(time_model)
        self._observer = Observer(self._fit, limits.max_num_batched_tokens)
        self._loss_model: TimeModel | None = None
        """The one that `_loss` is made for; refitting makes another."""
        self._loss = NO_LOSS
        self._sequences = 0
        self._private_blocks = 0
        self._prefill_us = 0
        self._decode_us = 0
        self._usual_batch = 1.0
        self.served_ms: dict[TenantName, float] = {}
        """GPU time that tenants' requests caused here, or are expected to."""

    @property
    def takes_new(self) -> bool:
        """Whether requests may be placed here."""
        return self.up and not self.draining

    @property
    def time_model(self) -> TimeModel:
        """How long it takes."""
        return self._fit.model

    def start(self, epoch: int, limits: EngineLimits) -> None:
        """The engine is ready, with an empty cache. What has been learnt of its times outlives a restart."""
        self.up, self.epoch, self.limits, self._loss_model = True, epoch, limits, None
        self._observer = Observer(self._fit, limits.max_num_batched_tokens)
        self._answers = Answers(limits.block_size)

    def stop(self, now_s: float) -> list[Attempt]:
        """The engine is gone: forget its cache and what ran there, and hand back what waited, oldest first."""
        self.up = False
        for attempt in self.running.values():
            if not attempt.lost:  # by an end before, of which its host has not heard yet
                self._leave(attempt, now_s)
                self._serve(attempt, None, now_s)
                attempt.lost = True
        self._index.clear(self.gpu)
        return [self.withdraw(attempt, now_s) for attempt in list(self.waiting)]

    # --- what E2 asks ---

    def candidate(self, asked: Asked, cached_blocks: int, holds_prefix: bool) -> Candidate:
        """What the request would cost here (paper, Algorithm 2), with so many of its leading blocks cached."""
        n_tokens, n_sequences, output_tokens, lane, path = asked
        limits, model, window, traits = self.limits, self._fit.model, self.window, self._traits
        sequences, requests, n_running = self._sequences, self._requests, len(self.running)
        cached_tokens = reusable_tokens(n_tokens, cached_blocks, limits.block_size)
        missed_tokens = n_tokens - cached_tokens
        prefill_ms = model.prefill_ms(missed_tokens)
        resident_blocks = self._evictable.resident_blocks
        needed_blocks = ceil((missed_tokens + output_tokens) / limits.block_size)
        free_blocks = limits.kv_blocks - resident_blocks - self._private_blocks
        evict_ms = 0.0
        if needed_blocks > free_blocks and window.n_requests:
            n_blocks = needed_blocks - free_blocks if free_blocks > 0 else needed_blocks
            if self._loss_model is not model:
                self._loss_model = model
                self._loss = (loss_by_chance if traits.counts_others else loss_by_uses)(model, limits.block_size)
            evict_ms = self._evictable.loss(n_blocks, path, self._loss)
            if not traits.counts_others:
                evict_ms /= window.n_requests
        # Steps of its own, at the batch it makes, and what its sequences add to every step of those who count.
        counting = self._shares.counting(lane)
        steps, per_sequence_ms = output_tokens / n_sequences, model.decode_ms_per_sequence
        own_ms = model.decode_base_ms + per_sequence_ms * (sequences + n_sequences)
        decode_ms = steps * (own_ms + per_sequence_ms * n_sequences * (counting * sequences))
        load_ms, decode_ratio = window.load(model, self._usual_batch if traits.batched_decode else 1.0)
        before_us, kept_waiting = 0.0, 0.0
        if requests > n_running:
            before_us, kept_waiting = self.waiting.before(lane, int(1000 * prefill_ms))
        passed_us = self._prefills.passed_us(lane, limits.max_num_batched_tokens)
        wait_ms = (self._prefill_us - self.waiting.work - passed_us + before_us) / 1000
        if traits.counts_others:
            # What it would add to the latency of all requests, its own included. It waits for what comes first; about
            # half of those who run here and count, or wait and have no turn before it, then wait for it. So computing
            # again what is cached elsewhere is cheap on an idle GPU and dear on a busy one. A little of L keeps new
            # prefixes apart: between idle GPUs the one that had less to do lately is better for what will follow.
            waits = 1 + _KEPT_WAITING * (counting * n_running + kept_waiting)
            cost_ms = wait_ms + waits * (evict_ms + prefill_ms) + decode_ms + traits.load_weight * load_ms
        else:
            cost_ms = load_ms + evict_ms + prefill_ms
        return Candidate(
            gpu=self.gpu,
            cached_tokens=cached_tokens,
            missed_tokens=missed_tokens,
            load_ms=load_ms,
            evict_ms=evict_ms,
            prefill_ms=prefill_ms,
            wait_ms=wait_ms,
            decode_ms=decode_ms,
            cost_ms=cost_ms,
            holds_prefix=holds_prefix,
            decode_ratio=decode_ratio,
            requests=requests,
            resident_blocks=resident_blocks,
        )

    @property
    def load_ms(self) -> float:
        """L: sum over the window's requests of prefill time and of decode time at the mean output length."""
        return self._load[0]

    @property
    def _load(self) -> tuple[float, float]:
        return self.window.load(self._fit.model, self._usual_batch if self._traits.batched_decode else 1.0)

    @property
    def wait_ms(self) -> float:
        """W: prefill of everything that waits or runs here, less what has been done of it."""
        return self._prefill_us / 1000

    # --- the way of an attempt: enqueue, start, prefilled, end ---

    def age(self, passed_s: float) -> None:
        """The window begins after `passed_s`."""
        for given in self.window.age(passed_s):
            if given.leaf is not None:
                self._index.disuse(given.leaf, self.gpu)

    def give(self, now_s: float, prefill_ms: float, leaf: Node | None) -> Given:
        """Count a placed request as load, and its prompt as on its way."""
        if leaf is not None:
            self._index.send(leaf, self.gpu)
        return self.window.give(now_s, prefill_ms, leaf)

    def enqueue(self, attempt: Attempt, now_s: float) -> None:
        """Count it as waiting. Then it either starts at once, if it `could_start`, or is to `line_up`."""
        decision, model = attempt.decision, self._fit.model
        attempt.prefill_us = round(1000 * model.prefill_ms(decision.prompt_tokens - decision.cached_tokens))
        attempt.decode_us = round(1000 * model.decode_ms(decision.expected_output_tokens, self._usual_batch))
        self._prefill_us += attempt.prefill_us
        self._decode_us += attempt.decode_us
        n_tokens = attempt.spec.prompt.n_tokens + decision.expected_output_tokens
        attempt.private_blocks = ceil(n_tokens / self.limits.block_size) - len(attempt.spec.prompt.block_keys)
        self._requests += 1
        self._pool.joined(attempt, now_s)

    def line_up(self, attempt: Attempt) -> None:
        """Let it wait for its turn."""
        self.waiting.add(attempt.spec.request_id, attempt.spec.lane, attempt, attempt.prefill_us)

    def withdraw(self, attempt: Attempt, now_s: float) -> Attempt:
        """Take back a waiting attempt, with everything it was counted for."""
        self.waiting.remove(attempt.spec.request_id)
        self._requests -= 1
        self._pool.left(attempt, now_s)
        self._done(attempt)
        if attempt.leaf is not None:
            self._index.fulfil(attempt.leaf, self.gpu)
        self._uncount(attempt)
        return attempt

    def _uncount(self, attempt: Attempt) -> None:
        """Take it out of the window: it is counted where it runs in the end."""
        if self.window.take_back(attempt.given) and attempt.leaf is not None:
            self._index.disuse(attempt.leaf, self.gpu)

    def next_to_start(self) -> Attempt | None:
        """The first of the waiting line, if the engine could start it soon."""
        attempt = self.waiting.first() if self.up else None
        if attempt is None or not self.running or self._fits(attempt):
            return attempt
        step_tokens = self.limits.max_num_batched_tokens
        is_held_up = self._uncomputed_tokens(attempt) > step_tokens or self._prefills.holds_up(step_tokens)
        other = self.waiting.first_light(attempt.spec.lane, also_indebted=is_held_up)
        return other if other is not None and self._fits(other) else None

    @property
    def sequences(self) -> int:
        """Of the requests that run here."""
        return self._sequences

    @property
    def is_hungry(self) -> bool:
        """Whether it takes new requests and has none to prefill."""
        return self._prefills.tokens == 0 and self.takes_new and not self.waiting

    def could_start(self, attempt: Attempt) -> bool:
        """Whether an attempt need not line up here: nobody is before it, and the engine could start it soon."""
        return not self.waiting and (not self.running or self._fits(attempt))

    def _fits(self, attempt: Attempt) -> bool:
        spec, limits = attempt.spec, self.limits
        unprefilled_tokens = self._uncomputed_tokens(attempt)
        _, held_blocks = self._index.computed_and_held(attempt.leaf, self.gpu)
        new_blocks = len(spec.prompt.block_keys) - held_blocks
        blocks = self._held_blocks() + new_blocks + attempt.private_blocks
        if not self._prefills.may_take(spec.lane, unprefilled_tokens, limits.max_num_batched_tokens):
            return False
        sequences = self._sequences + spec.n_sequences
        if sequences > limits.max_num_seqs or blocks > limits.kv_blocks:
            return False
        reserve_ratio = self._config.light_reserve_ratio
        leaves_room = (
            sequences <= limits.max_num_seqs - int(reserve_ratio * limits.max_num_seqs)
            and blocks <= (1 - reserve_ratio) * limits.kv_blocks
        )
        return leaves_room or not self._pool.turns.leaves_room(spec.lane)

    def _held_blocks(self) -> int:
        """KV blocks that running requests hold, or are expected to."""
        return self._index.active_blocks(self.gpu) + self._private_blocks + self._answers.late_blocks

    def _cached_share(self, attempt: Attempt) -> float:
        """Of its prompt, what would not have to be computed if it started now."""
        return 1 - self._uncomputed_tokens(attempt) / attempt.spec.prompt.n_tokens

    def _uncomputed_tokens(self, attempt: Attempt) -> int:
        """Prompt tokens the engine would compute if it started now: waiting ones do not count as cached."""
        computed_blocks, _ = self._index.computed_and_held(attempt.leaf, self.gpu)
        n_tokens = attempt.spec.prompt.n_tokens
        return n_tokens - reusable_tokens(n_tokens, computed_blocks, self.limits.block_size)

    def launch(self, attempt: Attempt, priority: Priority, now_s: float) -> None:
        """It goes to the engine now, which serves it by its priority."""
        spec = attempt.spec
        if spec.request_id in self.waiting:
            self.waiting.start(spec.request_id)
        attempt.running = True
        attempt.started_s = now_s
        attempt.computed_tokens = attempt.unprefilled_tokens = self._uncomputed_tokens(attempt)
        attempt.batch = max(self._usual_batch, self._sequences + spec.n_sequences)
        expected_tokens = attempt.decision.expected_output_tokens
        self._pool.started(attempt, self._service.whole_ms(attempt, expected_tokens, self.time_model))
        self.served_ms[spec.tenant] = self.served_ms.get(spec.tenant, 0.0) + attempt.charged_ms
        self.running[attempt.attempt_id] = attempt
        self._prefills.add(attempt)
        self._shares.add(spec.lane)
        self._sequences += spec.n_sequences
        self._private_blocks += attempt.private_blocks
        if attempt.leaf is not None:
            self._index.acquire(attempt.leaf, self.gpu)
        self._observer.launched(attempt.attempt_id, now_s, attempt.unprefilled_tokens, priority)
        self._observe(now_s)

    def _observe(self, now_s: float) -> None:
        self._observer.now(now_s, self._sequences, self._prefills.tokens > 0)

    def first_token(self, attempt: Attempt, now_s: float) -> None:
        """Its first token is here."""
        if not attempt.lost:
            self._observer.first_token(attempt.attempt_id, now_s)
        self.prefilled(attempt, now_s)

    def prefilled(self, attempt: Attempt, now_s: float) -> None:
        """Its whole prompt has been computed."""
        if not self._prefills.remove(attempt):
            return
        self._prefill_us -= attempt.prefill_us
        attempt.prefill_us = 0
        self._answers.begin(attempt, now_s)
        if attempt.leaf is not None:
            self._index.set_chain_resident(attempt.leaf, self.gpu)
        self._observe(now_s)

    def note_reported_prefills(self, now_s: float) -> None:
        """After a report: attempts whose whole chain is resident have been prefilled, streamed or not."""
        for attempt in self._prefills.computed():
            self.prefilled(attempt, now_s)

    def end(self, attempt: Attempt, now_s: float, output_tokens: int | None) -> float:
        """It has left the engine. None: nobody knows with how many tokens. The GPU time it took, in ms."""
        del self.running[attempt.attempt_id]
        self._requests -= 1
        if not attempt.lost:
            self._serve(attempt, output_tokens, now_s)
            is_telling = attempt.spec.n_sequences == 1 and not attempt.cancelled
            self._observer.ended(attempt.attempt_id, now_s, (output_tokens or 0) if is_telling else 0)
            self._leave(attempt, now_s, output_tokens)
            self._observe(now_s)
        return attempt.charged_ms

    def _serve(self, attempt: Attempt, output_tokens: int | None, now_s: float) -> None:
        """It is over: its tenant is charged for the GPU time that it took, and not for what was expected."""
        attempt.batch = self._observer.mean_batch(attempt.attempt_id, now_s) or attempt.batch
        service_ms = self._service.spent_ms(attempt, output_tokens, self.time_model, now_s)
        self.served_ms[attempt.spec.tenant] += service_ms - attempt.charged_ms
        self._pool.ended(attempt, service_ms, now_s)

    def _leave(self, attempt: Attempt, now_s: float, output_tokens: int | None = None) -> None:
        self._prefills.remove(attempt)
        self._answers.end(attempt, now_s, output_tokens)
        self._done(attempt)
        self._shares.remove(attempt.spec.lane)
        self._sequences -= attempt.spec.n_sequences
        self._private_blocks -= attempt.private_blocks
        if attempt.leaf is not None:
            self._index.release(attempt.leaf, self.gpu)

    def _done(self, attempt: Attempt) -> None:
        """Nothing of it is outstanding any more."""
        self._prefill_us -= attempt.prefill_us
        self._decode_us -= attempt.decode_us
        attempt.prefill_us = attempt.decode_us = 0

    def learn_output(self, now_s: float, output_tokens: int) -> None:
        """An attempt finished with this many tokens, and is still counted as running."""
        self.window.finish(now_s, output_tokens)
        self._usual_batch += _BATCH_WEIGHT * (self._sequences - self._usual_batch)

    def view(self) -> EngineView:
        """A copy of its state, for people."""
        load_ms, decode_ratio = self._load
        return EngineView(
            gpu=self.gpu,
            model=self.model,
            up=self.up,
            draining=self.draining,
            running=len(self.running),
            waiting=len(self.waiting),
            sequences=self._sequences,
            held_blocks=self._held_blocks(),
            load_ms=load_ms,
            outstanding_ms=(self._prefill_us + self._decode_us) / 1000,
            time_model=self._fit.model,
            time_error=self._fit.error,
            decode_ratio=decode_ratio,
            resident_blocks=self._index.resident_blocks(self.gpu),
            kv_blocks=self.limits.kv_blocks,
            block_size=self.limits.block_size,
            unprefilled_tokens=self._prefills.tokens,
        )

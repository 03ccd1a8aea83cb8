"""All engines and what they cache: places requests by E2.

It knows where requests should go and what that costs; the life of a request is the machine's (`flow.machine`).
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import count
from math import ceil, floor

import msgspec

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import AttemptId, GpuId, ModelName
from preble.daemon.sched.asked import Asked
from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.engine import Engine
from preble.daemon.sched.fairline import Turns
from preble.daemon.sched.index import Node, PrefixIndex, Stretch, cached_of
from preble.daemon.sched.outputs import OutputLengths
from preble.daemon.sched.policies import Choice, Policy, cheapest, make_policy
from preble.daemon.sched.pool import Pool
from preble.daemon.sched.queueing import Queueing
from preble.daemon.sched.returns import ReturnCounts, Returns
from preble.daemon.sched.types import Candidate, Decision, EngineLimits, Mode, RequestSpec, TimeModel
from preble.daemon.sched.window import LoadWindow

_MOVABLE = 4
"""Of a waiting line's end, so many requests are considered for another engine."""

_NEARLY = 0.95
"""Of the blocks of the longest cached prefix, what a GPU must have to be exploited."""
_WINDOW_STEPS = 500
"""A window passes in so many: what leaves it together takes less time, and most decisions take none for that."""
_NO_ATTEMPT = AttemptId(0)
"""Of a decision that nothing follows; attempts are counted from 1."""


class _Weighed(msgspec.Struct, frozen=True, gc=False):
    """What a request would cost at each of some GPUs."""

    stretches: Sequence[Stretch]
    candidates: tuple[Candidate, ...]
    expected_output_tokens: int
    biggest: Node | None
    """The prompt's biggest cached part, where how long its requests wait is watched."""


class Scheduler:
    """E2 over every engine of every model. All times are the caller's."""

    def __init__(self, config: SchedulerConfig, turns: Turns) -> None:
        self.engines: dict[GpuId, Engine] = {}
        """By name, in the order of names."""
        self._config = config
        self._turns = turns
        self._indexes: dict[ModelName, PrefixIndex] = {}
        self._policies: dict[ModelName, Policy] = {}
        self._outputs: dict[ModelName, OutputLengths] = {}
        self._returns: dict[ModelName, Returns] = {}
        self._pools: dict[ModelName, Pool] = {}
        self._engines_of: dict[ModelName, list[Engine]] = {}
        self._serving: dict[ModelName, list[Engine]] = {}
        """Those that take new requests, as far as somebody has asked since one came, went or was drained."""
        self._attempt_ids = count(1)
        self.window_step_s = config.window_s / _WINDOW_STEPS
        self._oldest_s = float("-inf")
        """No window counts anything older."""

    def engine_up(
        self, gpu: GpuId, model: ModelName, epoch: int, limits: EngineLimits, time_model: TimeModel
    ) -> Engine:
        """An engine is ready, with an empty cache. Its load window outlives restarts."""
        engine = self.engines.get(gpu)
        if engine is None:
            window = LoadWindow(self._config.expected_output_tokens)
            traits = self._policy(model).traits
            pool = self._pools.setdefault(model, Pool(self._turns))
            index = self.index(model)
            engine = Engine(gpu, model, index, window, pool, traits, self._config, limits, time_model)
            self.engines = dict(sorted({**self.engines, gpu: engine}.items()))
            self._engines_of[model] = [engine for engine in self.engines.values() if engine.model == model]
        assert engine.model == model, f"{gpu} serves {engine.model}, not {model}"
        engine.start(epoch, limits)
        self._serving.pop(model, None)
        return engine

    def engine_down(self, engine: Engine, now_s: float) -> list[Attempt]:
        """An engine is gone; what waited there, oldest first."""
        self._serving.pop(engine.model, None)
        return engine.stop(now_s)

    def drain(self, engine: Engine, draining: bool) -> None:
        """It takes no new requests, or takes them again."""
        self._serving.pop(engine.model, None)
        engine.draining = draining

    def index(self, model: ModelName) -> PrefixIndex:
        """What the model's engines cache."""
        index = self._indexes.get(model)
        if index is None:
            index = self._indexes[model] = PrefixIndex(self._config.max_indexed_blocks)
        return index

    def _policy(self, model: ModelName) -> Policy:
        if model not in self._policies:
            self._policies[model] = make_policy(self._config)
            self._outputs[model] = OutputLengths(self._config.expected_output_tokens)
            self._returns[model] = Returns(self.index(model), self._config.window_s)
        return self._policies[model]

    @property
    def waited_for(self) -> list[ModelName]:
        """Models for whose engines something waits."""
        return [model for model, pool in self._pools.items() if pool.waiting]

    def serving(self, model: ModelName) -> list[Engine]:
        """The model's engines that take new requests, in the order of names."""
        serving = self._serving.get(model)
        if serving is None:
            serving = [engine for engine in self._engines_of.get(model, ()) if engine.takes_new]
            if serving:
                self._serving[model] = serving
        return serving

    def block_size(self, model: ModelName) -> int:
        """Tokens per KV block of the model's engines; 0 before one was up."""
        engines = self._engines_of.get(model)
        return engines[0].limits.block_size if engines else 0

    def has_place(self, spec: RequestSpec) -> bool:
        """Whether another request of its tenant may wait at the model's engines, of which one at least has been up."""
        return self._pools[spec.model].has_place(spec.tenant, self._config.max_waiting_requests)

    def age(self, now_s: float) -> None:
        """Let the windows pass, and give up returns that should have come: before anything else that happens then.

        What is decided then does not depend on whether somebody has looked before: windows pass at set times.
        """
        passed_s = self.window_step_s * floor(now_s / self.window_step_s) - self._config.window_s
        if self._oldest_s <= passed_s:
            oldest_s = now_s
            for engine in self.engines.values():
                window = engine.window
                if window.oldest_s <= passed_s:
                    engine.age(passed_s)
                if window.oldest_s < oldest_s:
                    oldest_s = window.oldest_s
            self._oldest_s = oldest_s
        for returns in self._returns.values():
            returns.age(now_s)

    # --- placing ---

    def place(self, spec: RequestSpec, number: int, now_s: float) -> Attempt:
        """Choose an engine for try `number` of a request and let it wait there. Some engine must be serving it."""
        weighed = self._weigh(spec, self.serving(spec.model))
        if spec.warms is not None:
            return self._give(spec, number, weighed, _warming(spec, weighed), now_s, waits_since_s=now_s)
        choice = self._choose(self._policy(spec.model), weighed, now_s)
        if choice.mode is Mode.REPLICATE and weighed.biggest is not None and weighed.biggest.queueing is not None:
            weighed.biggest.queueing.add(choice.chosen.gpu, now_s)
        returns = self._returns[spec.model]
        back = returns.arrived(weighed.stretches, now_s) if number == 1 else None
        if back is not None:
            prefix_tokens = back.prefix_blocks * self.engines[choice.chosen.gpu].limits.block_size
            if choice.chosen.cached_tokens >= prefix_tokens:
                returns.found()
        return self._give(spec, number, weighed, choice, now_s, waits_since_s=now_s)

    def preview(self, spec: RequestSpec, now_s: float, engines: Sequence[Engine] | None = None) -> Decision:
        """What `place` would decide about a new request, among these engines if they are given. Changes nothing."""
        weighed = self._weigh(spec, self.serving(spec.model) if engines is None else engines)
        if spec.warms is not None:
            return _decision(spec, _NO_ATTEMPT, weighed, _warming(spec, weighed), now_s)
        policy = deepcopy(self._policy(spec.model))  # which may remember, as whose turn it was
        return _decision(spec, _NO_ATTEMPT, weighed, self._choose(policy, weighed, now_s), now_s)

    @staticmethod
    def _choose(policy: Policy, weighed: "_Weighed", now_s: float) -> Choice:
        """The policy's choice, unless it exploits a prefix whose requests wait ever longer (section 3.2).

        Such a prefix comes to the cheapest GPU that does not hold it, if to compute it there takes less than the wait.
        """
        choice = policy.choose(weighed.candidates, now_s)
        biggest = weighed.biggest if choice.mode is Mode.EXPLOIT else None
        grown_ms = biggest.queueing.grown_ms(biggest.uses, now_s) if biggest and biggest.queueing else None
        if grown_ms is None:
            return choice
        others = [candidate for candidate in weighed.candidates if not candidate.holds_prefix]
        if not others:
            return choice
        there = cheapest(others)
        if there.prefill_ms + there.evict_ms > grown_ms:
            return choice
        reason = f"its requests wait {grown_ms:.0f} ms, ever longer: the cheapest GPU that does not have it"
        return Choice(there, Mode.REPLICATE, reason)

    def move_to_idle(self, model: ModelName, now_s: float) -> Attempt | None:
        """Take one request that waits to an engine that would idle, if that gains time; None if there is no such.

        What it saves is waiting for what is to be prefilled at the engine where it is. What it costs is prefill, and
        eviction, that is not needed there. Whoever runs here waits for that too, and it counts twice for the request
        itself, since a second copy of a prefix takes room from others. Looked at are the last few of the line of the
        engine that has most to prefill.
        """
        if not self._policy(model).traits.moves:
            return None
        hungry = [engine for engine in self._engines_of[model] if engine.is_hungry]
        lines = [engine for engine in self._engines_of[model] if engine.waiting] if hungry else []
        if not lines:
            return None
        busiest = max(lines, key=lambda engine: engine.wait_ms)
        best: tuple[float, Attempt, _Weighed, Choice] | None = None
        for attempt in busiest.waiting.last(_MOVABLE):
            if attempt.spec.warms is not None:
                continue
            weighed = self._weigh(attempt.spec, hungry)
            there = min(
                weighed.candidates, key=lambda candidate: (candidate.prefill_ms + candidate.evict_ms, candidate.gpu)
            )
            waits_ms = busiest.wait_ms - attempt.prefill_us / 1000
            again_ms = max(0.0, there.prefill_ms + there.evict_ms - attempt.prefill_us / 1000)
            gain_ms = waits_ms - (2 + there.requests) * again_ms
            if gain_ms > (best[0] if best else 0.0) and self.engines[there.gpu].could_start(attempt):
                reason = (
                    f"{busiest.gpu} has {waits_ms:.0f} ms to prefill before it, and {there.gpu} nothing: "
                    f"starting there gains {gain_ms:.0f} ms"
                )
                best = (gain_ms, attempt, weighed, Choice(there, Mode.MOVED, reason))
        if best is None:
            return None
        _, attempt, weighed, choice = best
        busiest.withdraw(attempt, now_s)
        return self._give(attempt.spec, attempt.number, weighed, choice, now_s, attempt.waits_since_s)

    def started(self, attempt: Attempt, now_s: float) -> None:
        """It goes to its engine now: learn how long requests with its prefixes wait."""
        if attempt.leaf is None or attempt.spec.warms or not self._policy(attempt.spec.model).traits.replicates:
            return
        wait_ms = 1000 * (now_s - attempt.waits_since_s)
        for node in attempt.leaf.path():
            if node.queueing is None:
                node.queueing = Queueing(self._config.window_s / 2, self._config.replicate_wait_ratio, now_s)
            node.queueing.waited(wait_ms, now_s)

    def returns(self, model: ModelName) -> ReturnCounts:
        """Of sessions that called tools."""
        return self._returns[model].counts if model in self._returns else ReturnCounts(0, 0, 0, 0)

    def finished(self, attempt: Attempt, output_tokens: int, calls_tools: bool, now_s: float) -> None:
        """Learn from an answer; the attempt is still counted as running."""
        if attempt.spec.warms is not None:
            return  # nobody wanted its answer
        self.engines[attempt.decision.gpu].learn_output(now_s, output_tokens)
        spec = attempt.spec
        self._outputs[spec.model].learn(attempt.leaf, spec.tenant, output_tokens / spec.n_sequences)
        if calls_tools and attempt.leaf is not None and not attempt.lost:
            self._returns[spec.model].expect(attempt.leaf, attempt.decision.gpu, spec.tenant, now_s)

    def _weigh(self, spec: RequestSpec, engines: Sequence[Engine]) -> "_Weighed":
        """What the request would cost at each of `engines`."""
        index = self.index(spec.model)
        stretches = index.match(spec.prompt.block_keys)
        cached = index.cached_blocks(stretches)
        blocks = [cached.get(engine.gpu, 0) for engine in engines]
        holders, biggest = self._holders(spec.model, stretches, engines, blocks)
        each_tokens = ceil(self._outputs[spec.model].expect(stretches, spec.tenant))
        expected_tokens = spec.n_sequences * min(spec.max_output_tokens, each_tokens)
        path = frozenset([node for node, _ in stretches])
        asked = Asked(spec.prompt.n_tokens, spec.n_sequences, expected_tokens, spec.lane, path)
        candidates = [
            engine.candidate(asked, n_blocks, holds)
            for engine, n_blocks, holds in zip(engines, blocks, holders, strict=True)
        ]
        return _Weighed(stretches, tuple(candidates), expected_tokens, biggest)

    def _holders(
        self, model: ModelName, stretches: Sequence[Stretch], engines: Sequence[Engine], blocks: Sequence[int]
    ) -> tuple[list[bool], Node | None]:
        """Which of the engines cache what is exploited, and the prompt's biggest cached part, if that is exploited.

        `blocks` are those that each caches of the prompt's beginning.

        Section 1 of the paper says the longest match; we take whoever has nearly as much. Algorithm 1 says the node
        with the most tokens, and so forgets a session's history behind a longer system prompt that every GPU has.
        """
        if self._policy(model).traits.exploits_longest:
            return have_nearly_most(blocks), None
        biggest = self.index(model).biggest_cached(stretches, [engine.gpu for engine in engines])
        if biggest is None:
            return [False] * len(engines), None
        node, n_blocks = biggest
        holders = [2 * cached_of(biggest, engine.gpu) >= n_blocks for engine in engines]
        queueing = node.queueing
        if queueing is not None and queueing.taken_back:
            needed = [h and e.gpu not in queueing.taken_back for h, e in zip(holders, engines, strict=True)]
            holders = needed if any(needed) else holders
        return holders, node

    def _give(
        self,
        spec: RequestSpec,
        number: int,
        weighed: "_Weighed",
        choice: Choice,
        now_s: float,
        waits_since_s: float,
    ) -> Attempt:
        """Let the request wait at the chosen engine."""
        chosen = choice.chosen
        decision = _decision(spec, AttemptId(next(self._attempt_ids)), weighed, choice, now_s)
        engine = self.engines[chosen.gpu]
        leaf = self.index(spec.model).insert(spec.prompt.block_keys)
        attempt = Attempt(
            attempt_id=decision.attempt_id,
            spec=spec,
            number=number,
            decision=decision,
            leaf=leaf,
            given=engine.give(now_s, chosen.prefill_ms, leaf),
            waits_since_s=waits_since_s,
        )
        engine.enqueue(attempt, now_s)
        return attempt


def have_nearly_most(cached: Sequence[int]) -> list[bool]:
    """Of what each GPU caches of a prompt, which of them have about as much as the one that has most, and something."""
    enough = max(1, _NEARLY * max(cached))
    return [amount >= enough for amount in cached]


def _warming(spec: RequestSpec, weighed: _Weighed) -> Choice:
    """The GPU that is to be warm."""
    chosen = next(candidate for candidate in weighed.candidates if candidate.gpu == spec.warms)
    there = chosen.cached_tokens
    reason = f"it is to be cached there: {there} tokens are and {chosen.missed_tokens} are not"
    return Choice(chosen, Mode.WARM, reason)


def _decision(spec: RequestSpec, attempt_id: AttemptId, weighed: _Weighed, choice: Choice, now_s: float) -> Decision:
    return Decision(
        request_id=spec.request_id,
        attempt_id=attempt_id,
        model=spec.model,
        gpu=choice.chosen.gpu,
        mode=choice.mode,
        reason=choice.reason,
        prompt_tokens=spec.prompt.n_tokens,
        cached_tokens=choice.chosen.cached_tokens,
        expected_output_tokens=weighed.expected_output_tokens,
        candidates=weighed.candidates,
        decided_s=now_s,
    )

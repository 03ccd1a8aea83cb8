"""What must hold whatever happens in whatever order: conservation, bounds, and the same answers to the same events."""

from dataclasses import replace

import hypothesis.strategies as st
import msgspec
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.core import BLOCK, CONFIG, LIMITS, MODEL, Bench, keys, removed, spec, stored, up

from preble.daemon.flow import events
from preble.daemon.flow.effects import Abort, Dispatch, Ended, Placed
from preble.daemon.flow.machine import Machine

GPUS = ("a", "b", "c")
TIGHT = replace(LIMITS, kv_blocks=40, max_num_seqs=3, max_num_batched_tokens=40)
CLOSE = msgspec.structs.replace(CONFIG, prefill_lead_tokens=80)


class Daemon(RuleBasedStateMachine):
    """A host that obeys effects, and engines that report, die and come back as they please."""

    prompts = st.builds(
        lambda shared, own, n: (shared * 24 + own * n)[:100],
        st.sampled_from("st"),
        st.sampled_from("uvw"),
        st.integers(0, 60),
    )
    gpus = st.sampled_from(GPUS)

    @initialize()
    def begin(self):
        self.bench = Bench(*GPUS, config=CLOSE, limits=TIGHT)
        self.log = [(up(gpu, limits=TIGHT), 0.0) for gpu in GPUS]
        self.arrived, self.ended, self.running, self.aborted = set(), [], {}, set()
        self.lost, self.pins = set(), []
        self.alive = dict.fromkeys(GPUS, 1)
        self.cached = {gpu: set() for gpu in GPUS}

    def do(self, event):
        self.log.append((event, self.bench.now_s))
        effects = self.bench(event)
        started = {effect.gpu for effect in effects if isinstance(effect, Dispatch)}
        for view in self.bench.machine.views(self.bench.now_s):
            if view.gpu in started and view.running > 1:
                assert view.held_blocks <= TIGHT.kv_blocks  # later its answers may become longer than expected
        for effect in effects:
            match effect:
                case Placed(decision=decision):
                    assert decision.gpu in self.alive
                    assert decision.request_id in self.arrived
                case Dispatch():
                    assert effect.gpu in self.alive
                    assert effect.attempt_id not in self.running
                    self.running[effect.attempt_id] = effect
                case Abort():
                    assert effect.attempt_id in self.running
                    self.aborted.add(effect.attempt_id)
                case Ended():
                    self.ended.append(effect.request_id)

    @rule(text=prompts, n=st.integers(1, 3), tenant=st.sampled_from("xy"))
    def arrive(self, text, n, tenant):
        name = f"r{len(self.arrived)}"
        self.arrived.add(name)
        self.do(events.Arrived(request=spec(name, text, n_sequences=n, tenant=tenant)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["token", "report", "finish", "fail", "retry"]))
    def attempt_news(self, data, how):
        dispatch = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        if how == "token":
            return self.do(events.FirstToken(attempt_id=dispatch.attempt_id))
        del self.running[dispatch.attempt_id]
        if how == "finish":
            finished = events.Finished(
                attempt_id=dispatch.attempt_id, output_tokens=3, calls_tools=data.draw(st.booleans())
            )
            return self.do(finished)
        return self.do(events.Failed(attempt_id=dispatch.attempt_id, retry=how == "retry"))

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def client_leaves(self, data):
        self.do(events.ClientGone(request_id=data.draw(st.sampled_from(sorted(self.arrived)))))

    @rule(attempt=st.integers(1, 50))
    def stale_news_changes_nothing(self, attempt):
        if attempt not in self.running:
            before = self.bench.machine.views(self.bench.now_s)
            self.do(events.Finished(attempt_id=attempt, output_tokens=1))
            self.do(events.FirstToken(attempt_id=attempt))
            assert self.bench.machine.views(self.bench.now_s) == before

    @rule(gpu=gpus, text=prompts)
    def a_prefix_is_warmed(self, gpu, text):
        name = f"r{len(self.arrived)}"
        self.arrived.add(name)
        self.do(events.Arrived(request=replace(spec(name, text, max_output_tokens=1), warms=gpu)))

    @rule(gpu=gpus, text=prompts, pinned=st.booleans())
    def a_prefix_is_pinned(self, gpu, text, pinned):
        self.pins.append((gpu, keys(text)))
        self.do(events.PinChanged(model=MODEL, gpu=gpu, keys=keys(text), pinned=pinned))

    @rule(gpu=gpus, text=prompts)
    def engine_reports(self, gpu, text):
        if gpu in self.alive:
            self.cached[gpu] |= {text[:end] for end in range(BLOCK, len(text) + 1, BLOCK)}
            self.do(stored(gpu, text, epoch=self.alive[gpu]))

    @rule(gpu=gpus, data=st.data())
    def engine_evicts(self, gpu, data):
        here = self.cached[gpu]
        leaves = sorted(t for t in here if not any(o != t and o.startswith(t) for o in here))
        if leaves:
            text = data.draw(st.sampled_from(leaves))
            here.remove(text)
            self.do(removed(gpu, text, epoch=self.alive.get(gpu, 0)))

    @rule(gpu=gpus)
    def engine_dies(self, gpu):
        if gpu in self.alive:
            del self.alive[gpu]
            self.cached[gpu].clear()
            self.do(events.EngineDown(gpu=gpu))
            self.lost |= {attempt for attempt, dispatch in self.running.items() if dispatch.gpu == gpu}

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def host_hears_of_a_lost_attempt(self, data):
        """Perhaps only after the engine is back, or gone again."""
        attempt = data.draw(st.sampled_from(sorted(self.lost)))
        self.lost.remove(attempt)
        if self.running.pop(attempt, None) is not None:
            self.do(events.Failed(attempt_id=attempt, retry=True))

    @rule(gpu=gpus, epoch=st.integers(2, 5))
    def engine_starts(self, gpu, epoch):
        if gpu not in self.alive:
            self.alive[gpu] = epoch
            self.do(up(gpu, epoch=epoch, limits=TIGHT))

    @rule(gpu=gpus, draining=st.booleans())
    def operator_drains(self, gpu, draining):
        self.do(events.DrainChanged(gpu=gpu, draining=draining))

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds):
        self.bench.now_s += seconds

    @invariant()
    def every_request_is_live_or_ended_exactly_once(self):
        assert len(self.ended) == len(set(self.ended))
        assert self.bench.machine.live_requests == len(self.arrived) - len(self.ended)

    @invariant()
    def engines_hold_no_more_than_they_can_run(self):
        for view in self.bench.machine.views(self.bench.now_s):
            if view.running > 1:
                assert view.sequences <= TIGHT.max_num_seqs
                lead_tokens = max(100, CLOSE.prefill_lead_tokens)
                light_tokens = lead_tokens + TIGHT.max_num_batched_tokens
                assert view.unprefilled_tokens <= lead_tokens + light_tokens

    @invariant()
    def nothing_waits_at_an_idle_engine(self):
        for view in self.bench.machine.views(self.bench.now_s):
            if view.up and view.running == 0:
                assert view.waiting == 0

    def teardown(self):
        if not hasattr(self, "bench"):
            return
        self._end_everything()
        self._same_events_same_effects()

    def _end_everything(self):
        for gpu in GPUS:
            self.do(events.DrainChanged(gpu=gpu, draining=False))
            self.engine_starts(gpu, 9)
        for _ in range(CLOSE.max_attempts * len(self.arrived) + 1):
            for dispatch in list(self.running.values()):
                del self.running[dispatch.attempt_id]
                self.do(events.Finished(attempt_id=dispatch.attempt_id, output_tokens=3))
        assert set(self.ended) == self.arrived
        for gpu, chain in self.pins:
            self.do(events.PinChanged(model=MODEL, gpu=gpu, keys=chain, pinned=False))
        self.bench.now_s += CLOSE.window_s + 1
        for view in self.bench.machine.views(self.bench.now_s):
            assert (view.load_ms, view.outstanding_ms, view.running, view.waiting) == (0, 0, 0, 0)
            assert (view.sequences, view.held_blocks, view.unprefilled_tokens) == (0, 0, 0)
        for gpu in GPUS:
            self.do(events.KvReported(gpu=gpu, epoch=self.alive[gpu], changes=(events.BlocksCleared(),)))
        assert self.bench.machine.indexed_blocks("m") == 0

    def _same_events_same_effects(self):
        again = Machine(CLOSE)
        effects = [effect for event, now_s in self.log for effect in again.step(event, now_s)]
        assert effects == self.bench.seen


TestDaemon = Daemon.TestCase
TestDaemon.settings = settings(max_examples=200, stateful_step_count=40)

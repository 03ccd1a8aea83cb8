"""Warm-ups: requests that only bring a prefix into the cache of one GPU."""

from dataclasses import replace

import msgspec
from tests.core import BLOCK, CONFIG, LIMITS, MODEL, PAPER, TIMES, Bench, keys, removed, spec, stored

from preble.daemon.flow import events
from preble.daemon.flow.effects import Dispatch, Ended, Outcome, Refusal, Refuse
from preble.daemon.ids import GpuId
from preble.daemon.sched.types import Mode

ONE_AT_A_TIME = replace(LIMITS, max_num_seqs=1)


def warm_up(name, text, gpu="a", tenant="t"):
    return replace(spec(name, text, max_output_tokens=1, tenant=tenant), warms=GpuId(gpu))


def warm(bench, name, text, gpu="a", tenant="t"):
    return bench(events.Arrived(request=warm_up(name, text, gpu, tenant)))


def test_it_goes_to_its_gpu_whatever_that_costs():
    bench = Bench("a", "b")
    bench.run("r1", "x" * 40)
    bench.arrive("r2", "y" * 80)
    for gpu in ("a", "b"):
        decision = warm(bench, f"w{gpu}", "z" * 40, gpu)[0].decision
        assert (decision.gpu, decision.mode, len(decision.candidates)) == (gpu, Mode.WARM, 2)
    assert bench.machine.preview(warm_up("p", "z" * 40, "b"), 0.0).gpu == "b"


def test_what_tenants_ask_for_comes_first():
    bench = Bench("a", limits=ONE_AT_A_TIME, config=msgspec.structs.replace(CONFIG, batch_service_ratio=0.0))
    first = bench.arrive("r1", "x" * 40)
    warm(bench, "w1", "z" * 40)
    bench.arrive("r2", "y" * 40, tenant="u")
    bench.arrive("r3", "v" * 40)
    bench.finish(first)
    for _ in range(2):
        running = [effect for effect in bench.seen if type(effect) is Dispatch][-1]
        assert running.request_id in ("r2", "r3")
        bench(events.Finished(attempt_id=running.attempt_id, output_tokens=1))
    assert bench.dispatched()[-1] == "w1"


def test_it_never_moves_to_another_gpu_and_ends_with_its_own():
    bench = Bench("a", "b", limits=ONE_AT_A_TIME)
    warm(bench, "w1", "z" * 40)
    warm(bench, "w2", "v" * 400)  # waits, while b has nothing to do
    assert bench.dispatched() == ["w1"]
    effects = bench(events.EngineDown(gpu=GpuId("a")))
    assert Refuse(request_id="w2", why=Refusal.NO_ENGINE) in effects
    assert any(type(e) is Ended and e.outcome is Outcome.FAILED and e.request_id == "w2" for e in effects)
    assert warm(bench, "w3", "z" * 40)[0] == Refuse(request_id="w3", why=Refusal.NO_ENGINE)
    [attempt] = [effect.attempt_id for effect in bench.seen if type(effect) is Dispatch]
    ends = bench(events.Failed(attempt_id=attempt, retry=True))
    assert [e.outcome for e in ends if type(e) is Ended] == [Outcome.FAILED]
    assert bench.machine.live_requests == 0


def test_when_its_gpu_is_drained_it_ends():
    bench = Bench("a", "b", limits=ONE_AT_A_TIME)
    first = bench.arrive("r1", "x" * 400)
    warm(bench, "w1", "z" * 40, first.gpu)
    bench(events.DrainChanged(gpu=first.gpu, draining=True))
    bench.finish(first)
    assert bench.machine.live_requests == 0


def test_answers_to_it_teach_nothing_about_lengths():
    plain, warmed = Bench("a"), Bench("a")
    effects = warm(warmed, "w1", "x" * 40)
    warmed(events.Finished(attempt_id=effects[0].decision.attempt_id, output_tokens=1))
    expected = [bench.arrive("r1", "x" * 40).expected_output_tokens for bench in (plain, warmed)]
    assert expected == [CONFIG.expected_output_tokens] * 2


def test_only_what_was_reported_counts_as_there():
    bench = Bench("a", "b")
    chain = keys("x" * 40)
    bench.arrive("r1", "x" * 40)
    assert bench.machine.residency(MODEL, chain) == {}
    bench(stored("b", "x" * 5 * BLOCK))
    assert bench.machine.residency(MODEL, chain) == {"b": 5}
    bench(stored("b", "x" * 5 * BLOCK, after="x" * 5 * BLOCK))
    assert bench.machine.residency(MODEL, chain) == {"b": 10}
    assert bench.machine.residency(MODEL, keys("y" * 40)) == {}


def pin(bench, text, gpu="a", *, pinned=True):
    return bench(events.PinChanged(model=MODEL, gpu=GpuId(gpu), keys=keys(text), pinned=pinned))


def evict_ms(bench, name, text):
    return bench.preview(name, text).candidates[0].evict_ms


def full(config=CONFIG):
    """A GPU whose cache is full: of 20 blocks of which nobody will miss any."""
    bench = Bench("a", config=config, limits=replace(LIMITS, kv_blocks=20))
    bench.run("r1", "x" * 40)
    bench.run("r2", "y" * 40)
    return bench


def test_what_is_pinned_is_surely_missed():
    for config in (CONFIG, PAPER):
        bench = full(config)
        free_ms = evict_ms(bench, "p", "z" * 40)
        pin(bench, "x" * 40)
        pin(bench, "x" * 40)  # twice is once
        again_ms = TIMES.prefill_ms(40)
        assert free_ms < again_ms <= evict_ms(bench, "q", "z" * 40)
        pin(bench, "x" * 40, "b")
        pin(bench, "x" * 40, pinned=False)
        pin(bench, "x" * 40, pinned=False)
        assert evict_ms(bench, "r", "z" * 40) == free_ms


def test_a_request_goes_where_it_evicts_nothing_that_is_pinned():
    for pinned in ("a", "b"):
        bench = Bench("a", "b", limits=replace(LIMITS, kv_blocks=20))
        for number, gpu in enumerate(("a", "b")):
            for letter in "xy":
                warm(bench, f"w{number}{letter}", letter * 40, gpu)
                bench(stored(gpu, letter * 40))
                running = [effect for effect in bench.seen if type(effect) is Dispatch][-1]
                bench(events.Finished(attempt_id=running.attempt_id, output_tokens=1))
        pin(bench, "x" * 40, pinned)
        assert bench.preview("p", "z" * 40).gpu != pinned


def test_what_is_pinned_is_remembered_though_no_gpu_has_it():
    bench = full()
    before = bench.machine.indexed_blocks(MODEL)
    pin(bench, "z" * 40)
    bench(events.EngineDown(gpu=GpuId("a")))
    bench.now_s += 1000
    assert bench.machine.views(bench.now_s)
    assert bench.machine.indexed_blocks(MODEL) >= 10
    pin(bench, "z" * 40, pinned=False)
    assert bench.machine.indexed_blocks(MODEL) <= before


def test_how_far_a_prefix_is_from_its_eviction():
    bench = full()
    chains = {letter: keys(letter * 40) for letter in "xyz"}

    def spare(letter, most=100):
        return bench.machine.spare_blocks(MODEL, chains[letter], GpuId("a"), most)

    assert (spare("x"), spare("y"), spare("z")) == (0, 10, 100)
    bench.run("r3", "x" * 40)  # used again: y goes first now
    assert (spare("x"), spare("y")) == (10, 0)
    assert spare("x", 5) == 5
    bench.arrive("r4", "y" * 40)
    assert spare("y") == 100
    bench(removed("a", "x" * 40))
    assert spare("z", 1) == 1

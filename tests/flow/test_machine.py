"""The life of requests and engines, as the machine's effects tell it."""

from dataclasses import replace

import msgspec
import pytest
from tests.core import CONFIG, LIMITS, Bench, spec, stored, up

from preble.daemon.flow import events
from preble.daemon.flow.effects import Abort, Dispatch, Ended, Outcome, Placed, Refusal, Refuse
from preble.daemon.flow.machine import Machine


def kinds(effects):
    return [type(effect) for effect in effects]


def test_a_request_is_placed_and_sent_at_once_when_the_engine_is_free():
    bench = Bench("a")
    effects = bench(events.Arrived(request=spec("r1", "x" * 40)))
    assert kinds(effects) == [Placed, Dispatch]


def test_a_finished_request_ends_once():
    bench = Bench("a")
    decision = bench.arrive("r1", "x" * 40)
    assert bench.finish(decision) == (Ended(request_id="r1", outcome=Outcome.FINISHED, gpu_ms=45.0),)
    assert bench.finish(decision) == ()


def test_time_must_not_go_back():
    machine = Machine(CONFIG)
    machine.step(up("a"), 2.0)
    with pytest.raises(AssertionError, match="time went back"):
        machine.step(up("b"), 1.0)


# --- waiting in the daemon ---


def test_an_engine_gets_only_the_prefill_it_can_start_soon():
    bench = Bench("a")
    for number in range(4):  # 90 tokens each; the engine computes 100 a step, two steps ahead
        bench.arrive(f"r{number}", chr(97 + number) * 90)
    assert bench.dispatched() == ["r0", "r1"]
    assert bench.view("a").waiting == 2


def test_a_first_token_makes_room_for_the_next():
    bench = Bench("a")
    decisions = [bench.arrive(f"r{number}", chr(97 + number) * 90) for number in range(4)]
    bench(events.FirstToken(attempt_id=decisions[0].attempt_id))
    assert bench.dispatched() == ["r0", "r1", "r2"]


def test_a_report_of_the_whole_prompt_makes_room_without_a_first_token():
    bench = Bench("a")
    for number in range(4):
        bench.arrive(f"r{number}", chr(97 + number) * 90)
    bench(stored("a", "a" * 90))
    assert bench.dispatched() == ["r0", "r1", "r2"]


def test_a_prompt_larger_than_the_bound_starts_alone():
    bench = Bench("a")
    bench.arrive("r1", "x" * 900)
    assert bench.dispatched() == ["r1"]


@pytest.mark.parametrize(("step_tokens", "n_sent"), [(512, 4), (2048, 4), (4096, 8)])
def test_an_engine_has_a_step_to_prefill_and_no_less_than_2048_tokens(step_tokens, n_sent):
    limits = replace(LIMITS, kv_blocks=10_000, max_num_seqs=99, max_num_batched_tokens=step_tokens)
    bench = Bench("a", limits=limits, config=msgspec.structs.replace(CONFIG, prefill_lead_tokens=0))
    for number in range(12):
        bench.arrive(f"r{number}", chr(97 + number) * 512)
    assert len(bench.dispatched()) == n_sent


def test_cached_prompts_do_not_wait_for_prefill():
    bench = Bench("a")
    bench(stored("a", "x" * 400))
    for number in range(8):
        bench.arrive(f"r{number}", "x" * 400)
    assert len(bench.dispatched()) == 8


def test_sequences_are_bounded_by_the_engine():
    bench = Bench("a")
    for number in range(5):
        bench.arrive(f"r{number}", "ab", n_sequences=3)
    assert bench.dispatched() == ["r0", "r1"], "8 sequences at most"


def test_kv_blocks_are_bounded_by_the_engine_and_shared_ones_count_once():
    config = msgspec.structs.replace(CONFIG, prefill_lead_tokens=10_000)
    bench = Bench("a", limits=replace(LIMITS, kv_blocks=60), config=config)
    for number in range(5):
        bench.arrive(f"s{number}", "x" * 160)
    assert len(bench.dispatched()) == 5, "40 blocks are shared, and each takes one or two of its own"
    bench.arrive("other", "y" * 160)
    assert "other" not in bench.dispatched()


def test_what_waits_goes_in_order_of_arrival():
    bench = Bench("a", config=msgspec.structs.replace(CONFIG, prefill_lead_tokens=10))
    decisions = [bench.arrive(f"r{number}", chr(97 + number) * 90) for number in range(3)]
    for decision in decisions:
        bench.finish(decision)
    assert bench.dispatched() == ["r0", "r1", "r2"]


def test_a_full_queue_refuses():
    bench = Bench("a", config=msgspec.structs.replace(CONFIG, max_waiting_requests=1))
    for number in range(3):
        bench.arrive(f"r{number}", chr(97 + number) * 90)
    refused = bench(events.Arrived(request=spec("r3", "z" * 90)))
    assert refused == (
        Refuse(request_id="r3", why=Refusal.QUEUE_FULL),
        Ended(request_id="r3", outcome=Outcome.REFUSED),
    )


def test_a_flood_leaves_places_for_others():
    bench = Bench(
        "a", config=msgspec.structs.replace(CONFIG, max_waiting_requests=18, prefill_lead_tokens=10, quantum_s=0.05)
    )

    def waits(name, tenant):
        effects = bench(events.Arrived(request=spec(name, tenant[0] * 90, tenant=tenant)))
        return Refuse(request_id=name, why=Refusal.QUEUE_FULL) not in effects

    assert [waits(f"f{number}", "flood") for number in range(40)].count(True) == 1 + 16  # one of them runs
    assert [waits(f"n{number}", "next") for number in range(10)] == [True, True, True, *[False] * 7]  # one runs


@pytest.mark.parametrize(
    ("request_spec", "why"),
    [(spec("r1", "x", model="unknown"), Refusal.NO_ENGINE), (spec("r1", "x" * 4000), Refusal.TOO_LARGE)],
)
def test_what_no_engine_can_take_is_refused(request_spec, why):
    bench = Bench("a")
    assert Refuse(request_id="r1", why=why) in bench(events.Arrived(request=request_spec))


# --- clients that leave ---


def test_a_waiting_request_that_is_cancelled_leaves_no_load():
    bench = Bench("a")
    bench.arrive("r1", "x" * 500)
    before = bench.view("a").load_ms
    bench.arrive("r2", "y" * 500)
    assert bench(events.ClientGone(request_id="r2")) == (Ended(request_id="r2", outcome=Outcome.CANCELLED),)
    assert bench.view("a").load_ms == before


def test_a_running_request_that_is_cancelled_is_aborted_and_ends_when_the_engine_says_so():
    bench = Bench("a")
    decision = bench.arrive("r1", "x" * 40)
    gone = events.ClientGone(request_id="r1")
    assert bench(gone) == (Abort(request_id="r1", attempt_id=decision.attempt_id, gpu="a"),)
    assert bench(gone) == ()
    assert bench.finish(decision) == (Ended(request_id="r1", outcome=Outcome.CANCELLED),)


def test_cancelling_the_head_of_the_queue_lets_the_next_one_start():
    bench = Bench("a")
    bench.arrive("r1", "x" * 150)
    bench.arrive("r2", "y" * 150)
    bench.arrive("r3", "z" * 40)
    bench(events.ClientGone(request_id="r2"))
    assert bench.dispatched() == ["r1", "r3"]


# --- engines that end ---


def test_a_request_without_output_runs_again_elsewhere():
    bench = Bench("a", "b")
    first = bench.arrive("r1", "x" * 40)
    bench(events.EngineDown(gpu=first.gpu))
    effects = bench(events.Failed(attempt_id=first.attempt_id, retry=True))
    assert kinds(effects) == [Placed, Dispatch]
    assert effects[1].gpu != first.gpu


def test_a_request_with_output_fails():
    bench = Bench("a", "b")
    decision = bench.arrive("r1", "x" * 40)
    failed = bench(events.Failed(attempt_id=decision.attempt_id, retry=False))
    assert failed == (Ended(request_id="r1", outcome=Outcome.FAILED),)


def test_what_waits_at_an_engine_that_ends_goes_elsewhere():
    bench = Bench("a", config=msgspec.structs.replace(CONFIG, move_waiting=False))
    for number in range(3):
        bench.arrive(f"r{number}", chr(97 + number) * 150)
    bench(up("b"))
    effects = bench(events.EngineDown(gpu="a"))
    assert [effect.gpu for effect in effects if isinstance(effect, Dispatch)] == ["b"]
    assert bench.view("b").waiting == 1


def test_with_no_other_engine_a_request_waits_for_one_and_then_runs():
    bench = Bench("a")
    decision = bench.arrive("r1", "x" * 40)
    bench(events.EngineDown(gpu="a"))
    assert bench(events.Failed(attempt_id=decision.attempt_id, retry=True)) == ()
    assert kinds(bench(up("a", epoch=2))) == [Placed, Dispatch]


def test_a_parked_request_can_be_cancelled():
    bench = Bench("a")
    decision = bench.arrive("r1", "x" * 40)
    bench(events.EngineDown(gpu="a"))
    bench(events.Failed(attempt_id=decision.attempt_id, retry=True))
    assert bench(events.ClientGone(request_id="r1")) == (Ended(request_id="r1", outcome=Outcome.CANCELLED),)


def test_a_request_that_kills_its_engines_is_given_up():
    bench = Bench("a")
    decision = bench.arrive("r1", "x" * 40)
    for _ in range(CONFIG.max_attempts - 1):
        effects = bench(events.Failed(attempt_id=decision.attempt_id, retry=True))
        decision = effects[0].decision
    effects = bench(events.Failed(attempt_id=decision.attempt_id, retry=True))
    assert effects == (
        Refuse(request_id="r1", why=Refusal.ATTEMPTS_EXHAUSTED),
        Ended(request_id="r1", outcome=Outcome.FAILED),
    )


def test_an_engine_that_ends_caches_nothing():
    bench = Bench("a", "b")
    first = bench.run("r1", "x" * 40)
    bench(events.EngineDown(gpu=first.gpu))
    bench(up(first.gpu, epoch=2))
    assert bench.arrive("r2", "x" * 40).cached_tokens == 0


# --- draining ---


def test_a_draining_engine_gets_nothing_new_and_its_queue_moves():
    bench = Bench("a")
    for number in range(3):
        bench.arrive(f"r{number}", chr(97 + number) * 150)
    bench(up("b"))
    effects = bench(events.DrainChanged(gpu="a", draining=True))
    assert {effect.decision.gpu for effect in effects if isinstance(effect, Placed)} == {"b"}
    assert bench.arrive("r9", "a" * 150).gpu == "b"
    assert bench.view("a").running == 1


def test_draining_the_only_engine_lets_its_queue_finish_there():
    bench = Bench("a")
    decisions = [bench.arrive(f"r{number}", chr(97 + number) * 150) for number in range(2)]
    bench(events.DrainChanged(gpu="a", draining=True))
    bench.finish(decisions[0])
    assert bench.dispatched() == ["r0", "r1"]
    refused = bench(events.Arrived(request=spec("r2", "z")))
    assert refused[0] == Refuse(request_id="r2", why=Refusal.NO_ENGINE)


def test_a_drained_engine_stays_drained_through_a_restart_until_it_is_put_back():
    bench = Bench("a", "b")
    bench(events.DrainChanged(gpu="a", draining=True))
    bench(events.EngineDown(gpu="a"))
    bench(up("a", epoch=2))
    assert bench.arrive("r1", "x" * 40).gpu == "b"
    bench(events.DrainChanged(gpu="a", draining=False))
    assert bench.arrive("r2", "y" * 40).gpu == "a"


def test_an_engine_that_ends_twice_before_its_host_hears_of_what_ran_there():
    bench = Bench("a", "b")
    decision = bench.arrive("r1", "x" * 40)
    bench(events.EngineDown(gpu="a"))
    bench(up("a", epoch=2))
    bench(events.EngineDown(gpu="a"))
    bench(up("a", epoch=3))
    assert (bench.view("a").sequences, bench.view("a").held_blocks, bench.view("a").outstanding_ms) == (0, 0, 0)
    effects = bench(events.Failed(attempt_id=decision.attempt_id, retry=True))
    assert kinds(effects) == [Placed, Dispatch]


def test_a_look_changes_no_decision():
    found = []
    for looks in (False, True):
        bench = Bench("a", limits=replace(LIMITS, kv_blocks=60))
        first = bench.arrive("first", "q" * 8)
        bench.now_s = 100.0
        for name in ("second", "third"):
            decision = bench.arrive(name, "s" * 24)
            bench(events.FirstToken(attempt_id=decision.attempt_id))
            bench(events.Finished(attempt_id=decision.attempt_id, output_tokens=3))
        bench.now_s = CONFIG.window_s + 1
        if looks:
            bench.machine.views(bench.now_s)
        bench(events.Finished(attempt_id=first.attempt_id, output_tokens=3))
        found.append(bench.arrive("large", "z" * 230))
    assert found[0].candidates[0].evict_ms > 0
    assert found[0] == found[1]

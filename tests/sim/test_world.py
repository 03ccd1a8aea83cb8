"""The machine over modelled engines: 10 ms a step, 1 ms a token, blocks of 4, 16 tokens a step, at no delay."""

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.sim.modelled import fit, request

from preble.daemon.config import SchedulerConfig
from preble.daemon.flow.events import Arrived, Finished, FirstToken, KvReported
from preble.daemon.flow.machine import Machine
from preble.daemon.ids import GpuId, RequestId, TenantName
from preble.daemon.sim.prompts import BlockKeys
from preble.daemon.sim.types import Outcome, Piece
from preble.daemon.sim.world import MODEL, World, simulate

CONFIG = SchedulerConfig(expected_output_tokens=4)
ROOMY = fit(kv_blocks=1000, max_num_seqs=8, max_model_len=1000)


def play(*requests, gpus=1, config=CONFIG, fit=ROOMY, **more) -> dict[str, Outcome]:
    outcomes = simulate(requests, fit=fit, gpus=gpus, config=config, **more)
    assert len({outcome.request_id for outcome in outcomes}) == len(outcomes)
    return {outcome.request_id: outcome for outcome in outcomes}


def test_a_lone_request_from_arrival_to_end():
    assert play(request("r", 500, (1, 8), output=3)) == {
        "r": Outcome(
            request_id=RequestId("r"),
            tenant=TenantName("t"),
            gpu=GpuId("gpu0"),
            arrived_s=0.5,
            dispatched_s=0.5,
            first_token_s=0.518,
            ended_s=0.54,
            prompt_tokens=8,
            predicted_tokens=0,
            cached_tokens=0,
            output_tokens=3,
        )
    }


def test_what_waits_in_the_daemon_is_dispatched_when_the_engine_can_start_it():
    small = fit(max_num_seqs=1)
    seen = play(request("a", 0, (1, 8), output=3), request("b", 1, (2, 8)), fit=small)
    assert (seen["b"].arrived_s, seen["b"].dispatched_s, seen["b"].ended_s) == (0.001, 0.04, 0.058)


def test_an_engine_hears_of_a_request_after_the_delay():
    seen = play(request("r", 0, (1, 8)), dispatch_delay_s=0.25)
    assert (seen["r"].dispatched_s, seen["r"].ended_s) == (0, 0.268)


def test_the_machine_predicts_what_the_engine_finds():
    seen = play(
        request("cold", 0, (1, 12), (2, 5)),
        request("prefix", 100, (1, 12), (3, 5)),
        request("repeat", 200, (1, 12), (2, 5)),
        request("whole blocks", 300, (1, 12)),
        request("on its way", 400, (4, 40), (5, 3)),
        request("behind it", 401, (4, 40), (6, 3)),
    )
    hits = {name: (outcome.predicted_tokens, outcome.cached_tokens) for name, outcome in seen.items()}
    assert hits == {
        "cold": (0, 0),
        "prefix": (12, 12),
        "repeat": (16, 16),
        "whole blocks": (8, 8),
        "on its way": (0, 0),
        "behind it": (40, 40),
    }


def test_the_machine_is_told_of_the_prompt_and_not_of_the_answer(monkeypatch):
    told = []

    class Listening(Machine):
        def step(self, event, now_s):
            told.append(event)
            return super().step(event, now_s)

    monkeypatch.setattr("preble.daemon.sim.world.Machine", Listening)
    play(request("r", 5, (1, 11), output=9, max_output_tokens=30))
    (spec,) = (event.request for event in told if isinstance(event, Arrived))
    assert (spec.prompt.n_tokens, spec.prompt.block_keys) == (11, BlockKeys(4, MODEL).keys([Piece(1, 11)]))
    assert (spec.tenant, spec.max_output_tokens) == ("t", 30)
    assert [type(event) for event in told[1:]] == [Arrived, KvReported, FirstToken, KvReported, Finished]


def test_answers_end_at_the_clients_cap_and_at_the_models_context():
    seen = play(request("cap", 0, (1, 8), output=9, max_output_tokens=3), request("context", 100, (2, 995), output=90))
    assert {name: outcome.output_tokens for name, outcome in seen.items()} == {"cap": 3, "context": 5}


def test_prompts_over_the_context_and_empty_ones_are_refused():
    seen = play(request("long", 5, (1, 1000)), request("empty", 6), request("fits", 7, (1, 999)))
    assert [(seen[name].gpu, seen[name].complete) for name in ("long", "empty")] == [(None, False)] * 2
    assert (seen["long"].arrived_s, seen["long"].ended_s, seen["long"].output_tokens) == (0.005, 0.005, 0)
    assert seen["fits"].complete


def test_what_the_daemon_refuses_is_an_outcome_too():
    config = SchedulerConfig(max_waiting_requests=1)
    seen = play(*(request(f"r{i}", i, (i, 8), output=9) for i in range(4)), fit=fit(max_num_seqs=1), config=config)
    assert [seen[f"r{i}"].complete for i in range(4)] == [True, True, False, False]
    assert seen["r3"].gpu is None


# --- sessions ---


def session(*later):
    return iter(later)


def test_a_session_goes_on_after_the_end_of_the_request_before():
    second = request("second", 30, (1, 8), (77, 5), (2, 4), output=2, calls_tools=True)
    third = request("third", 40, (1, 8))
    first = request("first", 10, (1, 8), output=5, answer=77, session=session(second, third))
    seen = play(first)
    assert seen["first"].ended_s == pytest.approx(0.010 + 0.018 + 4 * 0.011)
    assert seen["second"].arrived_s == pytest.approx(seen["first"].ended_s + 0.030)
    assert seen["second"].cached_tokens == seen["second"].predicted_tokens == 12  # the prompt and most of the answer
    assert seen["third"].arrived_s == pytest.approx(seen["second"].ended_s + 0.040)
    assert {name: outcome.returned for name, outcome in seen.items()} == {
        "first": False,
        "second": False,
        "third": True,
    }


def test_the_rest_of_a_session_is_drawn_only_when_it_is_needed():
    drawn = []

    def later():
        for number in range(3):
            drawn.append(number)
            yield request(f"later{number}", 0, (1, 8))

    play(request("first", 0, (1, 1001), session=later()), request("other", 5, (1, 4)))
    assert drawn == []  # nobody goes on from a refusal
    play(request("first", 0, (1, 8), session=later()))
    assert drawn == [0, 1, 2]


def test_requests_are_taken_as_their_time_comes():
    ahead = []

    def requests():
        for number in range(50):
            ahead.append(number)
            yield request(f"r{number}", number * 100, (number, 8))

    world = World(
        fit=ROOMY, gpus=1, config=CONFIG, progress=lambda done: leads.append((done, len(ahead))), n_expected=50
    )
    leads = []
    world.run(requests())
    assert all(n_taken <= round(done * 50) + 1 for done, n_taken in leads)
    assert len(leads) > 40


def test_requests_out_of_order_are_refused():
    with pytest.raises(ValueError, match="late: requests must come in the order of at_s"):
        play(request("early", 50, (1, 8)), request("late", 49, (1, 8)))


# --- faults ---

A, B = GpuId("gpu0"), GpuId("gpu1")


def test_unanswered_requests_of_an_engine_that_dies_run_elsewhere():
    world = World(fit=ROOMY, gpus=2, config=CONFIG)
    world.fail(A, 0.020)
    outcomes = {outcome.request_id: outcome for outcome in world.run([request("r", 0, (1, 30))])}
    assert outcomes["r"].gpu == B
    assert outcomes["r"].complete
    assert outcomes["r"].dispatched_s == 0.020
    assert outcomes["r"].first_token_s == pytest.approx(0.020 + 0.026 + 0.024)


def test_an_answer_that_has_begun_ends_with_its_engine():
    world = World(fit=ROOMY, gpus=2, config=CONFIG)
    world.fail(A, 0.100)
    later = request("later", 0, (1, 8))
    (outcome,) = world.run([request("r", 0, (1, 8), output=20, session=iter([later]))])
    assert (outcome.gpu, outcome.complete, outcome.first_token_s, outcome.ended_s) == (A, False, 0.018, 0.1)


def test_an_engine_comes_back_with_an_empty_cache():
    world = World(fit=ROOMY, gpus=1, config=CONFIG)
    world.fail(A, 0.100, back_after_s=0.100)
    requests = [request("before", 0, (1, 30)), request("meanwhile", 150, (1, 30)), request("after", 250, (1, 30))]
    outcomes = {outcome.request_id: outcome for outcome in world.run(requests)}
    assert not outcomes["meanwhile"].complete
    assert (outcomes["after"].predicted_tokens, outcomes["after"].cached_tokens) == (0, 0)


def test_dying_while_down_changes_nothing():
    world = World(fit=ROOMY, gpus=1, config=CONFIG)
    world.fail(A, 0.100, back_after_s=0.100)
    world.fail(A, 0.150, back_after_s=0.100)
    meanwhile, after = world.run([request("r", 210, (1, 8), output=20), request("s", 900, (1, 8))])
    assert meanwhile.complete
    assert meanwhile.ended_s == pytest.approx(0.210 + 0.018 + 19 * 0.011)
    assert after.predicted_tokens == after.cached_tokens == 4


def test_requests_wait_for_an_engine_to_come_back_or_are_given_up():
    for back_after_s, complete in ((1.0, True), (None, False)):
        world = World(fit=ROOMY, gpus=1, config=CONFIG)
        world.fail(A, 0.005, back_after_s)
        (outcome,) = world.run([request("r", 0, (1, 8))])
        assert outcome.complete is complete


def test_a_draining_gpu_gets_nothing_new():
    world = World(fit=ROOMY, gpus=2, config=CONFIG)
    world.drain(A, 0.0)
    world.drain(A, 1.0, draining=False)
    world.drain(B, 1.0)
    requests = [request(f"r{i}", 10 + 250 * i, (i, 8)) for i in range(8)]
    assert [outcome.gpu for outcome in world.run(requests)] == [B] * 4 + [A] * 4


def test_a_client_that_leaves_frees_its_place():
    world = World(fit=fit(max_num_seqs=1), gpus=1, config=CONFIG)
    world.leave(RequestId("a"), 0.020)
    world.leave(RequestId("nobody"), 0.021)
    requests = [request("a", 0, (1, 8), output=50), request("b", 1, (2, 8))]
    outcomes = {outcome.request_id: outcome for outcome in world.run(requests)}
    assert (outcomes["a"].complete, outcomes["a"].output_tokens, outcomes["a"].ended_s) == (False, 2, 0.029)
    assert outcomes["b"].first_token_s == pytest.approx(0.029 + 0.018)


# --- what is told along the way ---


def test_loads_are_sampled_at_the_interval():
    world = World(fit=fit(max_num_seqs=1, kv_blocks=25), gpus=1, config=CONFIG, sample_interval_s=0.010)
    world.run([request("a", 5, (1, 8), output=2), request("b", 6, (2, 8))])
    # a: 5 to 23 and 34; b: 34 to 52
    rows = [(load.at_s, load.waiting, load.queued, load.running, load.kv_held_ratio * 25) for load in world.loads]
    assert rows == [
        (0.00, 0, 0, 0, 0),
        (0.01, 1, 0, 1, 2),
        (0.02, 1, 0, 1, 2),
        (0.03, 1, 0, 1, 3),
        (0.04, 0, 0, 1, 2),
        (0.05, 0, 0, 1, 2),
        (0.06, 0, 0, 0, 0),
    ]
    assert [load.kv_cached_ratio * 25 for load in world.loads] == [0, 2, 2, 2, 4, 4, 4]


def test_progress_goes_up_to_one():
    told = []
    play(*(request(f"r{i}", i, (i, 8)) for i in range(30)), progress=told.append, n_expected=30)
    assert all(before <= after for before, after in pairwise(told))
    assert told[-1] == 1.0
    assert len(told) > 20


def test_gpus_may_differ_but_not_in_block_size():
    slow = fit(kv_blocks=1000, max_num_seqs=8, max_model_len=500)
    assert play(request("r", 0, (1, 600)), fit=[ROOMY, slow], gpus=2)["r"].gpu is None  # some GPU could not take it
    from msgspec.structs import replace as changed

    odd = changed(ROOMY, engine=changed(ROOMY.engine, block_size=8))
    with pytest.raises(ValueError, match="same block size"):
        play(fit=[ROOMY, odd], gpus=2)
    with pytest.raises(ValueError, match="2 GPUs and 1 calibrations"):
        play(fit=[ROOMY], gpus=2)


def test_a_light_tenant_does_not_wait_for_a_long_prompt_that_was_begun():
    def flood(name, at_ms, content):
        return replace(request(name, at_ms, (content, 400)), tenant=TenantName("flood"))

    def seen(fairness):
        fast = SchedulerConfig(expected_output_tokens=4, quantum_s=0.2, fairness=fairness, prefill_lead_tokens=10)
        loads = [flood("f1", 0, 1), flood("f2", 1, 2), request("small", 100, (3, 8))]
        return play(*loads, config=fast, dispatch_delay_s=0.002)

    fair, first_come = seen("d2lpm"), seen("none")
    assert first_come["small"].first_token_s > 0.6
    assert fair["small"].first_token_s < 0.1 + 0.03 + 0.03  # the step under way, and its own
    assert all(outcome.complete and not outcome.cached_tokens for outcome in fair.values())
    halved_s = 25 * 0.01  # steps have half as many of its tokens, so it takes as many more
    assert fair["f2"].ended_s < first_come["f2"].ended_s + halved_s + 0.03

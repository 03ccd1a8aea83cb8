"""What must hold of every simulation: one outcome for each request, the same again, however steps are passed."""

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given, settings
from tests.sim.modelled import fit, request

from preble.daemon.config import SchedulerConfig
from preble.daemon.ids import GpuId, RequestId
from preble.daemon.sim.world import World

POLICIES = st.sampled_from(["e2", "e2_paper", "round_robin", "least_loaded", "prefix_affinity"])
CLIENTS = st.lists(
    st.tuples(
        st.integers(0, 40),  # ms after the one before
        st.integers(0, 2),  # which shared beginning
        st.integers(0, 24),
        st.integers(1, 20),
        st.integers(1, 24),  # of its answer
        st.integers(0, 3),  # how often its session goes on
    ),
    min_size=1,
    max_size=16,
)
FAULTS = st.lists(
    st.tuples(st.sampled_from(["fail", "end", "drain", "undrain", "leave"]), st.integers(0, 2), st.integers(0, 600)),
    max_size=6,
)


def requests_of(clients):
    now_ms = 0
    for number, (gap, shared, n_shared, n_own, output, n_later) in enumerate(clients):
        now_ms += gap
        prompt = ((shared, n_shared), (100 + number, n_own))
        yield request(
            f"r{number}",
            now_ms,
            *prompt,
            output=output,
            answer=500 + number,
            session=later(number, prompt, output, n_later),
        )


def later(number, prompt, output, n_later):
    for step in range(n_later):
        prompt = (*prompt, (500 + number, output), (1000 + 10 * number + step, 5))
        yield request(f"r{number}.{step}", 7, *prompt, output=output, answer=500 + number)


def build(faults, policy, **more):
    world = World(
        fit=fit(kv_blocks=more.pop("kv_blocks", 60), max_num_seqs=4, max_model_len=240),
        gpus=3,
        config=SchedulerConfig(expected_output_tokens=8, policy=policy, max_waiting_requests=12),
        **more,
    )
    for kind, number, at_ms in faults:
        gpu = GpuId(f"gpu{number}")
        match kind:
            case "fail":
                world.fail(gpu, at_ms / 1000, back_after_s=0.05)
            case "end":
                world.fail(gpu, at_ms / 1000)
            case "leave":
                world.leave(RequestId(f"r{number}"), at_ms / 1000)
            case _:
                world.drain(gpu, at_ms / 1000, draining=kind == "drain")
    return world


@settings(max_examples=150)
@given(CLIENTS, FAULTS, POLICIES, st.sampled_from([0.0, 0.003]))
def test_every_request_has_one_outcome_that_makes_sense(clients, faults, policy, delay_s):
    world = build(faults, policy, dispatch_delay_s=delay_s)
    outcomes = world.run(requests_of(clients))
    assert not world._agenda._dropped
    names = [outcome.request_id for outcome in outcomes]
    assert len(names) == len(set(names))
    assert {f"r{number}" for number in range(len(clients))} <= set(names)
    assert all(before.ended_s <= after.ended_s for before, after in pairwise(outcomes))
    for outcome in outcomes:
        assert outcome.cached_tokens < outcome.prompt_tokens
        assert outcome.arrived_s <= outcome.ended_s
        if outcome.complete:
            assert outcome.arrived_s <= outcome.dispatched_s < outcome.first_token_s <= outcome.ended_s
            assert outcome.output_tokens == clients[int(outcome.request_id[1:].split(".")[0])][4]
    if not faults:
        for number, client in enumerate(clients):
            answered = [o for o in outcomes if o.request_id.split(".")[0] == f"r{number}" and o.complete]
            assert len(answered) in (0, client[5] + 1) or any(not o.complete for o in outcomes)


@settings(max_examples=60)
@given(CLIENTS, FAULTS, POLICIES)
def test_the_same_requests_and_faults_come_to_the_same(clients, faults, policy):
    once, again = (build(faults, policy, sample_interval_s=0.02) for _ in range(2))
    assert once.run(requests_of(clients)) == again.run(requests_of(clients))
    assert once.loads == again.loads


@settings(max_examples=150)
@given(CLIENTS, FAULTS, POLICIES)
def test_passing_many_steps_at_once_makes_no_difference_while_nothing_is_evicted(clients, faults, policy):
    fast, slow = (
        build(faults, policy, kv_blocks=3000, one_by_one=one_by_one, sample_interval_s=0.02)
        for one_by_one in (False, True)
    )
    assert fast.run(requests_of(clients)) == slow.run(requests_of(clients))
    assert fast.loads == slow.loads

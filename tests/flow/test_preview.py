"""What would become of a request: the same as becomes of it then, and asking changes nothing."""

from collections import deque
from dataclasses import replace

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings
from tests.core import CONFIG, LIMITS, Bench, spec

from preble.daemon.flow import events
from preble.daemon.flow.effects import Dispatch, Refusal
from preble.daemon.sched.policies import POLICIES
from preble.daemon.sched.types import Decision

TIGHT = replace(LIMITS, kv_blocks=60, max_num_seqs=4)
TEXTS = st.builds(
    lambda shared, own, n: (shared * 60 + own * n)[:120],
    st.sampled_from("st"),
    st.sampled_from("uvw"),
    st.integers(0, 60),
)
STEPS = st.lists(st.tuples(TEXTS, st.sampled_from((0.0, 1.0, 9.0)), st.integers(0, 2), st.booleans()), max_size=40)
each_policy = pytest.mark.parametrize("policy", POLICIES)


def bench(policy="e2", limits=TIGHT):
    config = msgspec.structs.replace(CONFIG, policy=policy, window_s=20.0, rebalance_pause_s=2.0)
    return Bench("a", "b", "c", config=config, limits=limits)


def play(house, steps, look):
    """Requests come and end; `look` is called before each comes."""
    running = deque()
    for number, (text, pause_s, n_ended, calls_tools) in enumerate(steps):
        house.now_s += pause_s
        for _ in range(min(n_ended, len(running))):
            finished = events.Finished(attempt_id=running.popleft(), output_tokens=number, calls_tools=calls_tools)
            running += [one.attempt_id for one in house(finished) if isinstance(one, Dispatch)]
        look(house, number, text)
        arrived = house(events.Arrived(request=spec(f"r{number}", text)))
        running += [one.attempt_id for one in arrived if isinstance(one, Dispatch)]
    return house.seen


@each_policy
@settings(max_examples=60)
@given(steps=STEPS, others=st.lists(TEXTS, min_size=1, max_size=3))
def test_who_is_asked_goes_on_as_who_is_not(policy, steps, others):
    def ask(house, number, _):
        for text in others:
            house.preview(f"asked{number}", text)

    assert play(bench(policy), steps, ask) == play(bench(policy), steps, lambda *_: None)


@each_policy
@settings(max_examples=60)
@given(steps=STEPS)
def test_it_says_what_then_happens(policy, steps):
    foreseen = []
    seen = play(bench(policy), steps, lambda house, number, text: foreseen.append(house.preview(f"r{number}", text)))
    placed = {}
    for effect in seen:
        if hasattr(effect, "decision"):
            placed.setdefault(effect.decision.request_id, effect.decision)
    assert foreseen == [msgspec.structs.replace(placed[one.request_id], attempt_id=one.attempt_id) for one in foreseen]


def test_a_shift_of_load_does_not_begin_because_somebody_asks():
    def then(*, asks):
        house = bench("e2_paper", LIMITS)
        house.run("first", "x" * 100)
        if asks:
            assert house.preview("asked", "x" * 100).mode == "rebalance"
        for name in ("y", "z"):  # elsewhere, so that the loads are near each other, though not near enough to end one
            house.run(name, name * 80)
        return house.arrive("then", "x" * 100)

    assert then(asks=True) == then(asks=False)


def test_nothing_is_counted_as_placed():
    house = bench()
    before = house.machine.views(0.0)
    assert isinstance(house.preview("r", "x" * 100), Decision)
    assert house.machine.views(0.0) == before
    assert (house.machine.live_requests, house.machine.indexed_blocks("m")) == (0, 0)


def test_it_says_why_a_request_would_be_refused():
    assert bench().preview("r", "x", model="unknown") is Refusal.NO_ENGINE
    assert bench().preview("r", "x" * 4000) is Refusal.TOO_LARGE


def test_the_time_may_be_before_what_the_machine_has_seen():
    house = bench()
    house.now_s = 5.0
    house.arrive("r", "x" * 40)
    assert house.machine.preview(spec("asked", "x" * 40), 4.0).decided_s == 5.0

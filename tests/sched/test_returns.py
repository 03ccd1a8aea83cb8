"""Sessions that called tools are expected back, and their prefix counts as used until then."""

from dataclasses import replace
from math import exp

import pytest
from tests.core import BLOCK, LIMITS, MODEL, TIMES, Bench, stored

from preble.daemon.flow import events
from preble.daemon.sched.returns import ReturnCounts

PROMPT = "s" * 40


def call(bench, name="r1", text=PROMPT, **more):
    """A request whose answer calls a tool."""
    decision = bench.arrive(name, text, **more)
    bench(stored(decision.gpu, text))
    bench(events.FirstToken(attempt_id=decision.attempt_id))
    bench(events.Finished(attempt_id=decision.attempt_id, output_tokens=4, calls_tools=True))


def counts(bench):
    return bench.machine.returns(MODEL)


def test_a_return_is_seen_by_its_prefix_and_found_where_that_is_cached():
    bench = Bench("a", "b")
    call(bench)
    assert counts(bench) == ReturnCounts(expected=1, returned=0, found=0, expired=0)
    bench.now_s = 3.0
    bench.arrive("other", "o" * 40)
    assert bench.arrive("r2", PROMPT + "answer and result").gpu == "a"
    assert counts(bench) == ReturnCounts(expected=0, returned=1, found=1, expired=0)


def test_a_return_whose_prefix_is_gone_is_not_found():
    bench = Bench("a")
    call(bench)
    bench(events.KvReported(gpu="a", epoch=1, changes=(events.BlocksCleared(),)))
    assert counts(bench).found_ratio is None
    bench.arrive("r2", PROMPT + "answer")
    assert counts(bench) == ReturnCounts(expected=0, returned=1, found=0, expired=0)
    assert counts(bench).found_ratio == 0


def test_an_answer_without_tool_calls_is_not_expected_back():
    bench = Bench("a")
    bench.run("r1", PROMPT)
    assert counts(bench).expected == 0


def test_a_shorter_prompt_is_no_return():
    bench = Bench("a")
    call(bench)
    bench.arrive("r2", PROMPT[:20])
    assert counts(bench).returned == 0


def test_what_does_not_come_is_given_up_after_four_times_the_usual():
    bench = Bench("a")
    call(bench, "r1", "x" * 40)
    bench.now_s = 10.0
    bench.arrive("r2", "x" * 40 + "y" * 4)
    call(bench, "r3")
    bench.now_s = 49.9
    bench.view("a")
    assert counts(bench).expected == 1
    bench.now_s = 50.1
    bench.view("a")
    assert counts(bench) == ReturnCounts(expected=0, returned=1, found=1, expired=1)


def test_each_tenants_tools_take_their_own_time():
    bench = Bench("a")
    call(bench, "r1", "x" * 40, tenant="quick")
    bench.now_s = 0.1
    bench.arrive("r2", "x" * 40 + "y" * 4, tenant="quick")
    call(bench, "r3", tenant="quick")
    call(bench, "r4", "z" * 40, tenant="slow")
    bench.now_s = 6.0
    bench.arrive("r5", "w" * 40)
    assert (counts(bench).expected, counts(bench).expired) == (1, 1)


@pytest.mark.parametrize(("calls", "uses"), [(False, 1), (True, 2)])
def test_evicting_an_expected_prefix_costs_something(calls, uses):
    bench = Bench("a", limits=replace(LIMITS, kv_blocks=25))
    if calls:
        call(bench)
    else:
        bench.run("r1", PROMPT)
    bench.run("r2", "y" * 40)
    lost_ms = bench.arrive("r3", "z" * 40).candidates[0].evict_ms
    a_third_of_the_window_idle = exp(-(uses - 1) * (1 / 3) / (2 / 3))
    assert lost_ms == pytest.approx(a_third_of_the_window_idle * (1 - exp(1 - uses)) * TIMES.prefill_ms(6 * BLOCK))

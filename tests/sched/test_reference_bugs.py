"""Each bug of the reference implementation (WukLab/preble at 8e7906a), and the test that would have caught it."""

from dataclasses import replace

import pytest
from tests.core import BLOCK, CONFIG, LIMITS, PAPER, TIMES, Bench, removed, stored

from preble.daemon.flow import events
from preble.daemon.sched.types import Mode, TimeModel


def test_an_exact_repeat_is_exploited():
    """1: a prompt equal to an earlier one counted as wholly new and went round the GPUs."""
    bench = Bench("a", "b", "c", "d")
    first = bench.run("r0", "x" * 1000)
    for number in range(1, 6):
        again = bench.run(f"r{number}", "x" * 1000)
        assert (again.gpu, again.mode) == (first.gpu, Mode.EXPLOIT)


def test_exploiting_among_several_holders_goes_to_a_holder():
    """2: the position in the list of holders was taken for the GPU's number."""
    bench = Bench("a", "b", "c", "d")
    bench(stored("c", "x" * 400))
    bench(stored("d", "x" * 400))
    assert {bench.run(f"r{number}", "x" * 400).gpu for number in range(6)} == {"c", "d"}


def test_a_failed_request_does_not_poison_later_decisions():
    """3: a failure's missing time per token broke every decision after it."""
    bench = Bench("a")
    failed = bench.arrive("r1", "x" * 100)
    bench(events.Failed(attempt_id=failed.attempt_id, retry=False))
    assert bench.run("r2", "x" * 100).gpu == "a"


def test_a_request_may_outlive_the_window():
    """4: finishing a request that the window had forgotten hit a breakpoint."""
    bench = Bench("a")
    long = bench.arrive("r1", "x" * 100)
    bench.now_s = 2 * CONFIG.window_s
    bench.finish(long)
    assert bench.machine.live_requests == 0
    assert bench.arrive("r2", "x" * 100).cached_tokens == 96


def test_real_evictions_correct_what_is_believed():
    """5: eviction notices were neither built nor received."""
    bench = Bench("a", "b")
    first = bench.run("r1", "x" * 400)
    bench(removed(first.gpu, *("x" * end for end in range(400, 0, -BLOCK))))
    assert bench.arrive("r2", "x" * 400).mode is Mode.EXPLORE


def test_children_are_evicted_before_their_parents():
    """6: the parent, touched just before its child, was the first victim."""
    bench = Bench("a", limits=replace(LIMITS, kv_blocks=400), config=PAPER)
    bench.run("r1", "x" * 1000 + "y" * 312)
    bench.run("r2", "x" * 1000)  # an exact re-hit of the parent refreshes it
    needed = 400 * BLOCK - 328 * BLOCK + 312 - CONFIG.expected_output_tokens  # just what evicting the child frees
    evicting = bench.arrive("r3", "z" * needed)
    assert evicting.candidates[0].evict_ms == pytest.approx(TIMES.prefill_ms(312) / 2)


@pytest.mark.parametrize("lengths", [(192, 384), (1, 20_000)])
def test_the_time_model_grows_and_is_never_negative(lengths):
    """7: prefill of 383 tokens took -14.8 ms."""
    times = [TIMES.prefill_ms(n) for n in range(*lengths)]
    assert times == sorted(times)
    assert times[0] >= 0
    with pytest.raises(AssertionError):
        TimeModel(prefill_base_ms=-1.0, prefill_ms_per_token=1.0, decode_ms_per_sequence=1.0)


def test_a_client_that_leaves_leaves_nothing_behind():
    """6.2: a disconnect leaked reference counts, and its node looked busy for ever."""
    bench = Bench("a")
    decision = bench.arrive("r1", "x" * 400)
    bench(events.ClientGone(request_id="r1"))
    bench(events.Failed(attempt_id=decision.attempt_id, retry=False))
    bench.now_s = CONFIG.window_s
    assert bench.view("a").running == 0
    assert bench.machine.indexed_blocks("m") == 0


def test_an_evicted_prefix_nobody_uses_is_forgotten():
    """6.2: nodes were never deleted, and every decision scanned all of them."""
    bench = Bench("a")
    bench.run("r1", "x" * 400)
    bench(removed("a", *("x" * end for end in range(400, 0, -BLOCK))))
    assert bench.machine.indexed_blocks("m") == 100, "still counted in the window"
    bench.now_s = CONFIG.window_s
    bench.view("a")
    assert bench.machine.indexed_blocks("m") == 0


def test_a_shallow_match_does_not_spread_to_every_gpu():
    """6.2: each routed request added its GPU to all ancestors, whether or not they were cached there."""
    bench = Bench("a", "b")
    bench.run("r1", "s" * 40 + "x" * 400)
    other = bench.arrive("r2", "s" * 40 + "y" * 400)
    assert {c.gpu: c.cached_tokens for c in other.candidates} == {"a": 40, "b": 0}


def test_the_clients_cap_does_not_inflate_the_load():
    """6.2: predicted output was the client's max_tokens."""
    bench = Bench("a")
    bench.run("r1", "x" * 40, max_output_tokens=1_000)
    assert bench.view("a").load_ms == pytest.approx(TIMES.prefill_ms(40) + TIMES.decode_ms(4))

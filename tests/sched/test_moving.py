"""A GPU that would idle takes what waits elsewhere, when that gains time."""

import msgspec
from tests.core import CONFIG, Bench, stored, up

from preble.daemon.flow.effects import Dispatch, Placed
from preble.daemon.sched.types import Mode

PREFIX = "p" * 400
MISSED = 150


ONLY_MOVING = msgspec.structs.replace(CONFIG, rebalance=False)


def busy(n_requests, config=ONLY_MOVING):
    """GPU a caches the prefix and is given so many requests of 150 further tokens; b has nothing."""
    bench = Bench("a", "b", config=config)
    bench(stored("a", PREFIX))
    for number in range(n_requests):
        bench.arrive(f"r{number}", PREFIX + chr(ord("A") + number) * MISSED)
    return bench


def moved(bench):
    return [e.decision for e in bench.seen if isinstance(e, Placed) and e.decision.mode is Mode.MOVED]


def test_a_short_wait_is_cheaper_than_computing_the_prefix_again():
    bench = busy(6)
    assert moved(bench) == []
    assert bench.view("a").waiting == 5


def test_a_long_wait_is_not():
    """400 ms more to compute at b, which count twice, against 151 ms for each request before it at a."""
    bench = busy(7)
    [decision] = moved(bench)
    assert (decision.request_id, decision.gpu, decision.prompt_tokens, decision.cached_tokens) == ("r6", "b", 550, 0)
    assert "a has" in decision.reason
    assert [candidate.gpu for candidate in decision.candidates] == ["b"]
    sent = [(effect.request_id, effect.gpu) for effect in bench.seen if isinstance(effect, Dispatch)]
    assert sent == [("r0", "a"), ("r6", "b")]


def test_long_answers_before_it_are_no_wait():
    """They are decoded together with it."""
    assert moved(busy(6, msgspec.structs.replace(ONLY_MOVING, expected_output_tokens=500))) == []


def test_a_moved_request_counts_where_it_went_and_nowhere_else():
    bench = busy(7)
    assert (bench.view("a").waiting, bench.view("b").running) == (5, 1)
    assert bench.view("a").load_ms == bench.view("a").outstanding_ms == 6 * (151 + 4)
    assert bench.view("b").load_ms == bench.view("b").outstanding_ms == 551 + 4


def test_once_the_prefix_is_there_it_takes_more():
    bench = busy(7)
    bench.finish(moved(bench)[0])
    assert [decision.cached_tokens for decision in moved(bench)] == [0, 400]


def test_nothing_moves_to_a_gpu_that_has_prefill_to_do():
    bench = Bench("a", "b", config=ONLY_MOVING)
    bench(stored("a", PREFIX))
    bench(stored("b", "o" * 100))
    assert bench.arrive("other", "o" * 100 + "z" * 60).gpu == "b"
    for number in range(7):
        bench.arrive(f"r{number}", PREFIX + chr(ord("A") + number) * MISSED)
    assert moved(bench) == []


def test_an_engine_that_comes_up_takes_its_part():
    bench = Bench("a")
    for number in range(4):
        bench.arrive(f"r{number}", chr(ord("A") + number) * MISSED)
    bench(up("b"))
    assert [decision.gpu for decision in moved(bench)] == ["b"]


def test_moving_can_be_switched_off():
    assert moved(busy(9, config=msgspec.structs.replace(ONLY_MOVING, move_waiting=False))) == []

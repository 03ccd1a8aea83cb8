"""When a prefix comes to one GPU more, and when to one fewer (paper, section 3.2)."""

from dataclasses import replace

import msgspec
import pytest
from tests.core import LIMITS, PAPER, Bench, stored

from preble.daemon.sched.queueing import Queueing

HALF_S = 90.0
CONFIG = msgspec.structs.replace(PAPER, rebalance=False, decode_balance=False, window_s=2 * HALF_S)


def queueing(older_ms=(), newer_ms=()):
    """A prefix whose requests waited so long, in the half that ended at 90 s and in the one that began then."""
    of_one = Queueing(HALF_S, 2.0, 0.0)
    for wait_ms in older_ms:
        of_one.waited(wait_ms, 1.0)
    for wait_ms in newer_ms:
        of_one.waited(wait_ms, HALF_S)
    return of_one


def test_it_has_grown_when_the_newer_mean_is_twice_the_older():
    assert queueing([10] * 4, [19, 21, 20, 20]).grown_ms(8, HALF_S) == 20
    assert queueing([10] * 4, [19] * 4).grown_ms(8, HALF_S) is None


def test_a_few_requests_say_nothing():
    assert queueing([10] * 3, [90] * 9).grown_ms(8, HALF_S) is None
    assert queueing([10] * 9, [90] * 3).grown_ms(12, HALF_S) is None


def test_who_has_come_or_is_expected_and_has_not_started_counts_as_well():
    assert queueing([10] * 4, [90]).grown_ms(7, HALF_S) is None
    assert queueing([10] * 4, [90]).grown_ms(8, HALF_S) == 90
    assert queueing([10] * 4).grown_ms(8, HALF_S) is None


def test_what_waited_longer_than_a_window_ago_is_forgotten():
    of_one = queueing([10] * 4, [20] * 4)
    assert of_one.grown_ms(8, 2 * HALF_S - 0.1) == 20
    assert of_one.grown_ms(8, 2 * HALF_S) is None
    of_one.waited(90, 3 * HALF_S)
    for _ in range(4):
        of_one.waited(90, 3 * HALF_S)
    assert of_one.grown_ms(8, 3 * HALF_S) is None


def test_it_does_not_come_to_yet_another_before_a_half_has_shown_that_it_must():
    of_one = queueing([10] * 4, [20] * 4)
    of_one.add("b", HALF_S)
    for _ in range(9):
        of_one.waited(100, HALF_S + 1)
    assert of_one.grown_ms(8, HALF_S + 1) is None


@pytest.mark.parametrize(("later_ms", "taken_back"), [(10, {"b"}), (11, set())])
def test_a_gpu_is_taken_back_once_requests_wait_half_as_long(later_ms, taken_back):
    of_one = queueing([10] * 4, [20] * 4)
    of_one.add("b", HALF_S)
    of_one.waited(later_ms, HALF_S + 1)
    of_one.waited(later_ms, 2 * HALF_S)
    assert of_one.taken_back == taken_back


def test_the_last_added_is_taken_back_first_and_may_be_added_again():
    of_one = queueing([10] * 4, [20] * 4)
    of_one.add("b", HALF_S)
    of_one.add("c", HALF_S)
    of_one.waited(0, 2 * HALF_S)
    assert of_one.taken_back == {"c"}
    of_one.add("c", 2 * HALF_S)
    assert of_one.taken_back == set()


def test_a_copy_goes_its_own_way():
    of_one = queueing([10] * 4, [20] * 4)
    copy = of_one.copy()
    copy.add("b", HALF_S)
    assert (of_one.grown_ms(8, HALF_S), copy.grown_ms(8, HALF_S)) == (20, None)


# --- in the machine ---


def bench(**switches):
    """Two GPUs that run one request at a time, and "a" has the prefix."""
    config = msgspec.structs.replace(CONFIG, **switches)
    house = Bench("a", "b", config=config, limits=replace(LIMITS, max_num_seqs=1))
    house(stored("a", "x" * 100))
    return house


def pair(house, name, wait_s):
    """Two requests come; where both go to one GPU, the second waits so long for the first."""
    first = house.arrive(f"{name}a", "x" * 100 + "y" * 4)
    second = house.arrive(f"{name}b", "x" * 100 + "y" * 4)
    house.now_s += wait_s
    for decision in (first, second):
        house(stored(decision.gpu, "x" * 100 + "y" * 4))
        house.finish(decision)
    return [first, second]


def waits(house, before_s=1.0, after_s=10.0):
    """What is decided about requests of which half wait so long, and half a window later so long."""
    for number in range(4):
        pair(house, f"before{number}", before_s)
    house.now_s = HALF_S
    return [decision for number in range(4) for decision in pair(house, f"after{number}", after_s)]


def test_a_prefix_whose_requests_wait_ever_longer_comes_to_another_gpu():
    decisions = waits(bench())
    there = next(decision for decision in decisions if decision.mode == "replicate")
    assert there.gpu == "b"
    assert there.reason == ("its requests wait 5000 ms, ever longer: the cheapest GPU that does not have it")
    assert "exploit" in {decision.mode for decision in decisions if decision.gpu == "b"}
    assert [decision.mode for decision in decisions].count("replicate") == 1


def test_not_if_it_is_not_wanted():
    assert {decision.mode for decision in waits(bench(replicate=False))} == {"exploit"}


def test_not_if_computing_it_there_takes_longer_than_the_wait():
    assert {decision.mode for decision in waits(bench(), 0.01, 0.1)} == {"exploit"}


def test_once_they_wait_no_longer_the_other_gpu_is_left_alone():
    house = bench()
    waits(house)
    for half in (2, 3):
        house.now_s = half * HALF_S + 30
        house.finish(house.arrive(f"later{half}", "x" * 100))
    candidates = house.preview("r", "x" * 100).candidates
    assert [(one.gpu, one.cached_tokens > 50, one.holds_prefix) for one in candidates] == [
        ("a", True, True),
        ("b", True, False),
    ]

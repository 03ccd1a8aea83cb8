"""Whose turn it is, and that nobody gets more than a bound over what is fair."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from preble.daemon.priority import Priority
from preble.daemon.tenancy.fair import Counters, Credits, Everybody

QUANTUM_MS = 100.0
CHARGES_MS = st.floats(1.0, 250.0)
WEIGHTS = st.sampled_from((0.5, 1.0, 2.0, 3.0))
BATCH_SHARE = 0.05


def credits():
    return Credits(QUANTUM_MS, BATCH_SHARE)


def counters():
    return Counters(BATCH_SHARE)


each = pytest.mark.parametrize("make", [credits, counters])


def wait(turns, *tenants, weight=1.0, is_batch=False, now_s=0.0):
    for tenant in tenants:
        turns.stand(tenant, weight, is_batch)
        turns.joined(tenant, now_s)


def serve(turns, tenant, service_ms, now_s=0.0):
    """One request of a tenant, which waits for another at once: it is backlogged."""
    turns.started(tenant, service_ms, now_s)
    turns.ended(tenant, 0.0, now_s)


def backlogged(turns, weights, n_served, charge_ms, pick=min):
    """Service of tenants that wait all the time, whoever is picked of those who may be served."""
    for tenant, weight in weights.items():
        wait(turns, *[tenant] * (n_served + 1), weight=weight)
    served_ms = dict.fromkeys(weights, 0.0)
    for number in range(n_served):
        tenant = pick(turns.admissible(list(weights)))
        turns.started(tenant, charge_ms(number, tenant), 0.0)
        served_ms[tenant] += charge_ms(number, tenant)
        yield dict(served_ms)


@each
def test_service_is_in_proportion_to_weights(make):
    *_, served_ms = backlogged(make(), {"a": 1.0, "b": 3.0}, 2000, lambda number, tenant: 40.0)
    assert served_ms["b"] / served_ms["a"] == pytest.approx(3, rel=0.05)


def test_everybody_is_not_held_back():
    *_, served_ms = backlogged(Everybody(BATCH_SHARE), {"a": 1.0, "b": 3.0}, 20, lambda number, tenant: 1.0)
    assert served_ms == {"a": 20.0, "b": 0.0}


@settings(max_examples=200)
@given(
    weights=st.dictionaries(st.sampled_from("abcd"), WEIGHTS, min_size=2),
    charges_ms=st.lists(CHARGES_MS, min_size=1, max_size=10),
    picks=st.lists(st.integers(0, 3), min_size=1, max_size=20),
)
def test_two_that_always_wait_never_differ_by_more_than_the_bound(weights, charges_ms, picks):
    """Whoever the caller prefers of those who may be served, and whatever requests cost."""
    numbers = iter(range(10_000))

    def pick(tenants):
        return sorted(tenants)[picks[next(numbers) % len(picks)] % len(tenants)]

    def charge_ms(number, tenant):
        return charges_ms[(number + ord(tenant)) % len(charges_ms)]

    most_ms = max(charges_ms)
    for served_ms in backlogged(credits(), weights, 300, charge_ms, pick):
        for one in weights:
            for other in weights:
                difference_ms = served_ms[one] / weights[one] - served_ms[other] / weights[other]
                bound_ms = 2 * QUANTUM_MS + most_ms / weights[one] + most_ms / weights[other]
                assert abs(difference_ms) <= bound_ms * (1 + 1e-9)


@each
@settings(max_examples=150)
@given(data=st.data())
def test_somebody_may_always_be_served_and_only_who_was_asked_for(make, data):
    """Requests join, leave, start and end in any order."""
    turns, now_s = make(), 0.0
    waiting, running = [], []
    for _ in range(data.draw(st.integers(1, 60))):
        now_s += data.draw(st.sampled_from((0.0, 1.0, 100.0, 5000.0)))
        what = data.draw(st.sampled_from(("join", "leave", "start", "end")))
        if what == "join":
            tenant = data.draw(st.sampled_from("abc"))
            turns.stand(tenant, data.draw(WEIGHTS), data.draw(st.booleans()))
            turns.joined(tenant, now_s)
            waiting.append(tenant)
        elif what == "leave" and waiting:
            turns.left(waiting.pop(), now_s)
        elif what == "start" and waiting:
            asked = set(data.draw(st.lists(st.sampled_from(sorted(waiting)), min_size=1)))
            may = turns.admissible(asked)
            assert may
            assert set(may) <= asked
            tenant = sorted(may)[0]
            turns.started(tenant, data.draw(CHARGES_MS), now_s)
            waiting.remove(tenant)
            running.append(tenant)
        elif what == "end" and running:
            turns.ended(running.pop(), data.draw(st.floats(-250, 250)), now_s)


@each
def test_who_was_idle_does_not_make_up_for_it(make):
    turns = make()
    wait(turns, *["busy"] * 200, "late")
    turns.started("late", 1.0, 0.0)
    turns.ended("late", 0.0, 0.0)
    for _ in range(100):  # alone, and so without being held back
        assert list(turns.admissible(["busy"])) == ["busy"]
        turns.started("busy", 40.0, 0.0)
    wait(turns, *["late"] * 101, now_s=60.0)
    n_late = 0
    while list(turns.admissible(["late", "busy"])) == ["late"]:
        turns.started("late", 40.0, 0.0)
        n_late += 1
    assert n_late * 40.0 <= 2 * (QUANTUM_MS + 40.0)  # the bound between two that always wait


def test_debt_is_halved_in_a_minute_of_idleness():
    turns = credits()
    wait(turns, "a", *["b"] * 50)
    turns.started("a", 1000.0, 0.0)
    turns.ended("a", 0.0, 0.0)
    wait(turns, "a", now_s=60.0)
    n_b = 0
    while turns.admissible(["a", "b"]) == ["b"]:
        turns.started("b", QUANTUM_MS, 0.0)
        n_b += 1
    assert n_b == 5  # of its 1000 ms, 500 are left: with the sixth quantum it has credit again


def test_what_was_not_needed_is_given_back():
    turns = credits()
    wait(turns, *"ab" * 3)
    turns.started("a", 1000.0, 0.0)
    turns.started("b", QUANTUM_MS, 0.0)
    turns.ended("a", -950.0, 0.0)
    assert turns.admissible(["a", "b"]) == ["a"]


def test_who_always_has_something_running_is_given_its_quanta_too():
    """It is not idle, and seldom waits: what it was served is paid by the rounds that others get meanwhile."""
    turns = credits()
    wait(turns, "a", "a", *"b" * 50)
    turns.started("a", 2.5 * QUANTUM_MS, 0.0)
    turns.started("a", 0.0, 0.0)
    for _ in range(3):
        serve(turns, "b", QUANTUM_MS)
        assert turns.admissible(["b"]) == ["b"]
    wait(turns, "a")
    assert "a" in turns.admissible(["a", "b"])


def test_who_uses_less_than_its_quanta_comes_first_and_may_do_so_in_bursts():
    turns = credits()
    wait(turns, *"b" * 90)
    for _ in range(12):  # rounds of quanta, all of which "b" uses
        turns.admissible(["b"])
        turns.started("b", QUANTUM_MS, 0.0)
    assert not turns.is_light("b")
    wait(turns, *"a" * 50)
    n_first = 0
    while turns.is_light("a"):
        assert turns.admissible(["a", "b"]) == ["a"]
        turns.started("a", QUANTUM_MS, 0.0)
        if turns.admissible(["a", "b"]) == ["b"]:  # that used up its credit, and a new round gave it more
            turns.started("b", QUANTUM_MS, 0.0)
            turns.admissible(["a", "b"])
        n_first += 1
    assert 8 / (1 - 0.75) - 8 < n_first <= 8 / (1 - 0.75)
    assert sorted(turns.admissible(["a", "b"])) == ["a", "b"]  # like any other, until it has used less for a while


def test_who_wants_little_may_borrow_less_than_a_quantum():
    turns = credits()
    wait(turns, *"b" * 12)
    for _ in range(12):
        turns.started("b", QUANTUM_MS, 0.0)
    wait(turns, *"aaabc")  # "c" has credit all the time, so nobody is given more
    assert (turns.may_borrow("a"), turns.may_borrow("b")) == (True, False)
    turns.started("a", 1.9 * QUANTUM_MS, 0.0)
    assert turns.standing("a", {}).credit_ms < 0
    assert turns.may_borrow("a")
    turns.started("a", 0.2 * QUANTUM_MS, 0.0)
    assert turns.is_light("a")
    assert not turns.may_borrow("a")


def test_asking_whose_turn_it_is_gives_nobody_a_quantum():
    turns = credits()
    wait(turns, *"a" * 5)
    turns.started("a", 10 * QUANTUM_MS, 0.0)
    credit_ms = turns.standing("a", {}).credit_ms
    for _ in range(50):
        assert turns.admissible(["a"]) == ["a"]
    assert turns.standing("a", {}).credit_ms == credit_ms < 0


def test_who_has_something_waiting_all_the_time_wants_more_than_little():
    turns = credits()
    wait(turns, "a", "a", *"b" * 90)
    turns.started("a", 50 * QUANTUM_MS, 0.0)
    light = []
    for _ in range(50):  # each gives both a quantum
        turns.started("b", QUANTUM_MS, 0.0)
        light.append(turns.is_light("a"))
    assert light == [11 <= n_rounds <= 32 for n_rounds in range(50)]
    turns.left("a", 0.0)
    assert turns.is_light("a")


def test_a_new_tenant_is_light_for_no_more_than_its_first_quantum():
    turns = credits()
    wait(turns, *"ab")
    turns.admissible(["a"])
    assert turns.is_light("a")
    turns.started("a", QUANTUM_MS, 0.0)
    assert not turns.is_light("a")


def use_alone(turns, tenant, n_requests):
    """Its requests start as they come, ten a second, and take a quantum each. The time then."""
    for number in range(n_requests):
        wait(turns, tenant, now_s=number / 10)
        turns.started(tenant, QUANTUM_MS, number / 10)
        turns.ended(tenant, 0.0, number / 10)
    return n_requests / 10


def test_what_was_used_or_saved_while_nobody_had_to_wait_is_forgotten():
    turns = credits()
    turns.stand("b", 1.0, is_batch=False)  # it wants nothing yet
    now_s = use_alone(turns, "a", 100)
    wait(turns, *"ab" * 10, now_s=now_s)
    assert turns.is_light("a")
    assert turns.is_light("b")
    turns.started("b", QUANTUM_MS, now_s)
    assert turns.is_light("a")
    assert not turns.is_light("b")


def test_what_starts_in_a_calm_counts_for_a_second():
    turns = credits()
    wait(turns, "b", now_s=100.0)
    turns.started("b", QUANTUM_MS, 100.0)
    for now_s, is_light in ((100.9, False), (101.1, True)):
        wait(turns, "a", now_s=now_s)
        turns.started("a", 1.0, now_s)
        assert turns.is_light("b") is is_light


def test_batch_that_waits_all_the_while_keeps_nobody_from_being_as_if_new():
    turns = credits()
    wait(turns, *["batch"] * 200, is_batch=True)
    for number in range(1, 100):
        wait(turns, "a", now_s=number / 10)
        turns.started("a", QUANTUM_MS, number / 10)
        turns.started("batch", 1.0, number / 10 + 0.05)
    wait(turns, "a", now_s=10.0)
    assert turns.is_light("a")


@pytest.mark.parametrize(("pause_s", "is_light"), [(0.9, False), (1.1, True)])
def test_a_pause_of_a_flood_is_no_calm_unless_it_lasts(pause_s, is_light):
    turns = credits()
    wait(turns, *"b" * 20, now_s=100.0)
    for _ in range(20):  # the last of them after five seconds
        turns.started("b", QUANTUM_MS, 105.0)
    wait(turns, "b", now_s=105.0 + pause_s)
    assert turns.is_light("b") is is_light


def test_light_tenants_have_the_first_priority_only_while_others_wait():
    turns = credits()
    wait(turns, "a")
    assert turns.priority("a") == Priority.USUAL
    wait(turns, "b")
    assert turns.priority("a") == Priority.LIGHT
    turns.started("a", QUANTUM_MS / 2, 0.0)
    assert turns.is_light("b")
    assert turns.priority("b") == Priority.USUAL  # nobody else waits now


@pytest.mark.parametrize("number", [-3, 7])
def test_any_other_number_is_as_the_usual_priority(number):
    assert Priority(number) is Priority.USUAL


@pytest.mark.parametrize(
    ("is_batch", "before", "after"),
    [(False, Priority.USUAL, Priority.YIELDING), (True, Priority.BATCH, Priority.YIELDING_BATCH)],
)
def test_others_yield_once_a_light_tenant_has_come(is_batch, before, after):
    turns = credits()
    wait(turns, *"b" * 50, is_batch=is_batch)
    for _ in range(40):
        turns.started("b", QUANTUM_MS, 0.0)
    assert turns.priority("b") == before
    wait(turns, "a")
    assert (turns.priority("a"), turns.priority("b")) == (Priority.LIGHT, after)


def test_nobody_who_is_batch_is_light():
    turns = credits()
    wait(turns, "a", is_batch=True)
    assert not turns.is_light("a")


@pytest.mark.parametrize("make", [counters, lambda: Everybody(BATCH_SHARE)])
def test_only_credits_know_who_is_light(make):
    turns = make()
    wait(turns, "a")
    assert not turns.is_light("a")
    assert not turns.may_borrow("a")


@each
def test_one_alone_is_never_held_back(make):
    turns = make()
    wait(turns, *["a"] * 50)
    for _ in range(50):
        assert list(turns.admissible(["a"])) == ["a"]
        turns.started("a", 1e6, 0.0)


def test_who_leaves_is_not_charged():
    turns = credits()
    wait(turns, "a", "b")
    turns.left("a", 0.0)
    wait(turns, "a")
    assert turns.admissible(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("make", [credits, counters, lambda: Everybody(BATCH_SHARE)])
def test_batch_waits_for_what_is_interactive_but_for_a_small_share(make):
    turns = make()
    wait(turns, *["now"] * 2001)
    wait(turns, *["later"] * 2001, is_batch=True)
    served = []
    for _ in range(2000):
        served.append(next(iter(turns.admissible(["now", "later"]))))
        turns.started(served[-1], 10.0, 0.0)
    assert served.count("later") / len(served) == pytest.approx(BATCH_SHARE, rel=0.05)


def test_batch_alone_gets_everything_and_owes_nothing_for_it():
    turns = credits()
    wait(turns, *["later"] * 100, is_batch=True)
    for _ in range(50):
        assert list(turns.admissible(["later"])) == ["later"]
        turns.started("later", 10.0, 0.0)
    wait(turns, *["now"] * 100)
    assert list(turns.admissible(["now", "later"])) == ["now"]


def test_a_weight_holds_at_once_for_what_waits():
    turns = credits()
    wait(turns, *"ab" * 1000)
    turns.stand("b", 9.0, is_batch=False)
    served = []
    for _ in range(1000):
        served.append(next(iter(turns.admissible(["a", "b"]))))
        turns.started(served[-1], 40.0, 0.0)
    assert served.count("b") / served.count("a") == pytest.approx(9, rel=0.05)


def test_who_gets_a_smaller_weight_keeps_no_more_than_that_allows():
    turns = credits()
    wait(turns, *"b" * 90, weight=9.0)
    for _ in range(40):  # rounds
        serve(turns, "b", 9 * QUANTUM_MS)
    wait(turns, "a", weight=9.0)
    assert turns.standing("a", {}).credit_ms == 9 * QUANTUM_MS
    turns.stand("a", 1.0, is_batch=False)
    assert turns.standing("a", {}).credit_ms == QUANTUM_MS
    turns.started("a", 8 * QUANTUM_MS, 0.0)
    assert not turns.is_light("a"), "what it may use beyond it shrinks as well"


def test_a_tenant_that_becomes_batch_waits_with_all_it_has():
    turns = credits()
    wait(turns, *"ab" * 3)
    turns.stand("a", 1.0, is_batch=True)
    assert list(turns.admissible(["a", "b"])) == ["b"]
    turns.stand("a", 1.0, is_batch=False)
    assert list(turns.admissible(["a", "b"])) == ["a", "b"]

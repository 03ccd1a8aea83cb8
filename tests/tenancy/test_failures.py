"""Addresses that come without a valid key, at times that the test names."""

import pytest

from preble.daemon.tenancy.failures import FailureLimiter

HERE, THERE = "192.0.2.1", "192.0.2.2"


def limiter(**changes) -> FailureLimiter:
    return FailureLimiter(**{"per_minute": 60, "at_once": 3, "addresses_kept": 10, **changes})


def test_some_failures_are_let_pass_and_then_one_each_interval():
    failures = limiter()
    assert [failures.count(HERE, 100.0) for _ in range(3)] == [None, None, None]
    assert failures.count(HERE, 100.0) == pytest.approx(1.0)
    assert failures.count(HERE, 100.75) == pytest.approx(0.25)
    assert failures.count(HERE, 101.0) is None
    assert failures.count(HERE, 101.0) == pytest.approx(1.0)


def test_who_waits_as_long_as_told_gets_in_however_often_it_was_refused():
    failures = limiter()
    for _ in range(1000):
        wait_s = failures.count(HERE, 0.0)
    assert failures.count(HERE, wait_s + 1e-6) is None


def test_after_a_quiet_while_all_is_as_before():
    failures = limiter()
    for _ in range(10):
        failures.count(HERE, 0.0)
    assert [failures.count(HERE, 60.0) for _ in range(3)] == [None, None, None]
    assert failures.count(HERE, 60.0) is not None


def test_one_address_does_not_stand_for_another():
    failures = limiter(at_once=1)
    assert failures.count(HERE, 0.0) is None
    assert failures.count(HERE, 0.0) is not None
    assert failures.count(THERE, 0.0) is None


def test_the_table_is_bounded_and_forgets_who_was_quiet_longest():
    failures = limiter(at_once=1, addresses_kept=2)
    for address in (HERE, THERE, HERE, "192.0.2.3"):
        failures.count(address, 0.0)
    assert len(failures) == 2
    assert failures.count(HERE, 0.0) is not None, "it was heard of last"
    assert failures.count(THERE, 0.0) is None, "it was forgotten"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", HERE, True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
        ("a name", "another", False),
    ],
)
def test_addresses_of_one_network_count_as_one(one, other, same):
    failures = limiter(at_once=1)
    failures.count(one, 0.0)
    assert (failures.count(other, 0.0) is not None) == same

"""Buckets and budgets, at times that the test names."""

from datetime import UTC, datetime
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.tenancy.buckets import Bucket, Budget, Rate, day_at, month_at

RATE = Rate.per_minute(120)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_a_minutes_worth_may_come_at_once_and_the_rest_as_it_comes_back():
    bucket = Bucket()
    bucket.add(120, RATE, 5.0)
    assert bucket.wait_s(1, RATE, 5.0) == pytest.approx(0.5)
    assert bucket.wait_s(10, RATE, 6.0) == pytest.approx(4.0)
    assert bucket.wait_s(2, RATE, 6.0) == 0
    assert bucket.wait_s(121, RATE, 6.0) == inf


def test_a_new_rate_counts_at_once():
    bucket = Bucket()
    bucket.add(120, RATE, 0.0)
    assert bucket.wait_s(1, Rate.per_minute(240), 0.0) == 0
    assert bucket.wait_s(1, Rate.per_minute(60), 0.0) == pytest.approx(61.0)


def test_what_is_given_back_makes_no_more_room_than_there_is():
    bucket = Bucket()
    bucket.add(50, RATE, 0.0)
    bucket.add(-80, RATE, 1.0)
    assert bucket.spent(RATE, 1.0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 200)), max_size=40), st.integers(1, 100), st.floats(0.01, 50)
)
def test_who_waits_as_long_as_told_gets_in_and_nobody_earlier(steps, at_once, per_s):
    bucket, rate, now_s = Bucket(), Rate(at_once, per_s), 0.0
    for pause_s, amount in steps:
        now_s += pause_s
        wait_s = bucket.wait_s(amount, rate, now_s)
        if wait_s == inf:
            assert amount > at_once
            continue
        if wait_s > 2e-3:
            assert bucket.wait_s(amount, rate, now_s + wait_s - 1e-3) > 0
        now_s += wait_s
        assert bucket.wait_s(amount, rate, now_s) == 0
        bucket.add(amount, rate, now_s)
        assert bucket.spent(rate, now_s) <= at_once + per_s * 1e-5


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2199, 12, 31)))  # noqa: DTZ001
def test_days_and_months_are_those_of_the_calendar_in_utc(when):
    utc_s = when.replace(tzinfo=UTC).timestamp()
    day, month = day_at(utc_s), month_at(utc_s)
    midnight = when.replace(tzinfo=UTC, hour=0, minute=0, second=0, microsecond=0)
    assert (day.start_s, day.end_s - day.start_s) == (midnight.timestamp(), 86_400)
    first = midnight.replace(day=1)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    assert (month.start_s, month.end_s) == (first.timestamp(), following.timestamp())


def test_a_budget_begins_anew_with_its_period():
    budget = Budget(day_at)
    budget.add(70, at("2026-11-21T23:59:59"))
    assert budget.spent(at("2026-11-21T23:59:59.9")) == 70
    assert budget.spent(at("2026-11-22T00:00:00")) == 0
    budget.add(5, at("2026-11-22T00:00:01"))
    budget.add(-60, at("2026-11-21T23:59:59"))
    assert budget.spent(at("2026-11-22T00:00:01")) == 5, "yesterday's request gave back yesterday's tokens"

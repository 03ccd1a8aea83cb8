"""Which part of what runs on an engine counts for a tenant."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.sched.test_fairline import Turns

from preble.daemon.sched.shares import Shares


def shares(running, turns=None):
    made = Shares(turns or Turns())
    for tenant in running:
        made.add(tenant)
    return made


def test_a_tenants_own_requests_count_and_of_others_as_many_as_fall_to_them():
    of = shares("x" + 20 * "f", Turns({"f": 3.0}))
    assert of.counting("x") == (1 + 2 * 3) / 21  # with the one that comes it has two
    assert of.counting("new") == 1 * (3 + 1) / 21
    assert of.counting("f") == 1  # a third of its own would be seven


@pytest.mark.parametrize(("running", "turns"), [("", None), ("xxx", None), ("xffff", Turns(are_by_tenant=False))])
def test_all_count_where_nobody_else_runs_or_nobody_asks_whose_they_are(running, turns):
    assert shares(running, turns).counting("x") == 1


def test_who_has_ended_does_not_count():
    of = shares("xffff")
    for _ in range(3):
        of.remove("f")
    assert of.counting("x") == 1
    of.remove("f")
    of.remove("x")
    assert of.counting("x") == 1


@given(st.lists(st.sampled_from("abc"), max_size=30), st.sampled_from("abcd"), st.floats(0.1, 10))
def test_it_is_never_less_than_its_own_nor_more_than_all(running, tenant, weight):
    of = shares(running, Turns({tenant: weight}))
    assert running.count(tenant) / max(1, len(running)) <= of.counting(tenant) <= 1

"""Jain's index and the gap of service, of runs whose numbers can be checked by hand."""

import pytest

from preble.daemon.ids import GpuId, RequestId, TenantName
from preble.daemon.sim.shares import SPAN_S, fairness
from preble.daemon.sim.types import Outcome


def one(tenant, arrived_s, dispatched_s, ended_s, complete=True):
    return Outcome(
        request_id=RequestId("r"),
        tenant=TenantName(tenant),
        gpu=GpuId("a"),
        arrived_s=arrived_s,
        dispatched_s=dispatched_s,
        first_token_s=dispatched_s,
        ended_s=ended_s,
        prompt_tokens=1,
        predicted_tokens=0,
        cached_tokens=0,
        output_tokens=1,
        complete=complete,
    )


def queue(tenant, service_s, spans):
    """A tenant that always has something waiting, and one request of `service_s` within each span."""
    start_s = [span * SPAN_S for span in range(spans)]
    waits = one(tenant, 0.0, spans * SPAN_S, spans * SPAN_S + 1, complete=False)
    return [waits, *(one(tenant, at_s, at_s, at_s + service_s) for at_s in start_s)]


def lasted(outcome):
    return outcome.ended_s - outcome.dispatched_s


def test_equal_service_is_fair_and_leaves_no_gap():
    found = fairness([*queue("a", 2.0, 4), *queue("b", 2.0, 4)], lasted, {})
    assert found.jain == pytest.approx(1)
    assert found.gap_s == pytest.approx(0)


def test_one_who_gets_everything_is_as_unfair_as_can_be():
    found = fairness([*queue("a", 3.0, 4), *queue("b", 0.0, 4)], lasted, {})
    assert found.jain == pytest.approx(1 / 2)
    assert found.gap_s == pytest.approx(4 * 3.0)


def test_service_counts_by_weight():
    found = fairness([*queue("a", 1.0, 4), *queue("b", 3.0, 4)], lasted, {"b": 3.0})
    assert found.jain == pytest.approx(1)
    assert found.gap_s == pytest.approx(0)


def test_who_has_nothing_waiting_is_not_compared():
    served = [one("b", at_s, at_s, at_s + 0.1) for at_s in range(20)]
    assert fairness([*queue("a", 3.0, 4), *served], lasted, {}) == (None, None)


def test_a_gap_begins_anew_when_they_have_not_both_waited():
    late = [one("b", 2 * SPAN_S, 4 * SPAN_S, 4 * SPAN_S)]
    assert fairness([*queue("a", 3.0, 4), *late], lasted, {}).gap_s == pytest.approx(2 * 3.0)


def test_service_is_spread_over_the_time_it_took():
    long = [one("b", 0.0, 4 * SPAN_S, 4 * SPAN_S), one("b", 0.0, 0.0, 4 * SPAN_S)]
    found = fairness([*queue("a", SPAN_S, 4), *long], lasted, {})
    assert found.gap_s == pytest.approx(0)


def test_of_nothing_nothing_is_known():
    assert fairness([], lasted, {}) == (None, None)

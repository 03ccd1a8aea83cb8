"""Tenants on modelled GPUs: shares by weight, a flood that does not drown its neighbour, and locality that stays."""

from dataclasses import replace
from heapq import merge

import numpy as np
import pytest

from preble.daemon.config import SchedulerConfig
from preble.daemon.sim.demand import Demand
from preble.daemon.sim.fits import load_fit
from preble.daemon.sim.workloads import WORKLOADS
from preble.daemon.sim.world import World

FIT = load_fit("a6000-mistral-7b")
N_GPUS = 2
TIMES = FIT.time_model()


def tools(tenant, rate, n_requests, seed):
    """Requests of one tenant, each with one of many long tool descriptions."""
    demand = Demand(requests=n_requests, rate=rate, seed=seed, n_gpus=N_GPUS)
    for request in WORKLOADS["tool"].generate(demand):
        yield replace(request, tenant=tenant, request_id=f"{tenant}{request.request_id}")


def play(fairness, *tenants, weights=None):
    world = World(fit=FIT, gpus=N_GPUS, config=SchedulerConfig(fairness=fairness), weights=weights)
    return world.run(merge(*tenants, key=lambda request: request.at_s))


def p99_ttft_s(outcomes, tenant):
    return np.percentile([one.first_token_s - one.arrived_s for one in outcomes if one.tenant == tenant], 99)


def hit_ratio(outcomes):
    return sum(one.cached_tokens for one in outcomes) / sum(one.prompt_tokens for one in outcomes)


def service_ms(outcomes, tenant, from_s, to_s):
    """GPU time of what ended then: prefill, and decoding at a batch that all have alike."""
    ended = [one for one in outcomes if one.tenant == tenant and from_s <= one.ended_s < to_s]
    prefill_ms = sum(TIMES.prefill_ms(one.prompt_tokens - one.cached_tokens) for one in ended)
    return prefill_ms + sum(TIMES.decode_ms(one.output_tokens, 64) for one in ended)


@pytest.mark.parametrize("fairness", ["vtc", "d2lpm"])
def test_two_tenants_that_always_wait_are_served_by_their_weights(fairness):
    outcomes = play(fairness, tools("a", 30, 1500, 1), tools("b", 30, 1500, 2), weights={"b": 3.0})
    served_ms = {tenant: service_ms(outcomes, tenant, 15, 60) for tenant in "ab"}
    assert served_ms["b"] / served_ms["a"] == pytest.approx(3, rel=0.08)


def test_a_flood_does_not_drown_its_neighbour_and_costs_no_locality():
    plain, fair = (
        play(fairness, tools("good", 3, 120, 1), tools("flood", 40, 1600, 2)) for fairness in ("none", "d2lpm")
    )
    assert p99_ttft_s(fair, "good") < p99_ttft_s(plain, "good") / 5
    assert hit_ratio(fair) > 0.95 * hit_ratio(plain)
    makespan_s = {name: max(one.ended_s for one in run) for name, run in (("plain", plain), ("fair", fair))}
    assert makespan_s["fair"] < 1.05 * makespan_s["plain"]


def test_who_is_alone_gets_everything():
    runs = [play(fairness, tools("a", 40, 400, 1)) for fairness in ("none", "vtc", "d2lpm")]
    assert runs[0] == runs[1] == runs[2]

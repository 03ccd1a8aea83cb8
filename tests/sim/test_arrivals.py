"""Arrivals: rates that are what was asked for, and bursts like those the paper tells of."""

from itertools import islice

import numpy as np
import pytest

from preble.daemon.sim.arrivals import (
    ARRIVALS,
    AZURE_CHAT,
    AZURE_CODE,
    LONGEST_GAP_S,
    SHORTEST_GAP_S,
    gaps_s,
    times_s,
)


def gaps(arrivals, rate, n=100_000, bursts=AZURE_CHAT, seed=3):
    return np.array(list(islice(gaps_s(arrivals, rate, np.random.default_rng(seed), bursts), n)))


def test_poisson_gaps_spread_as_much_as_their_mean():
    poisson = gaps("poisson", 8.0)
    assert poisson.mean() == pytest.approx(1 / 8, rel=0.02)
    assert poisson.std() == pytest.approx(1 / 8, rel=0.02)


def test_constant_gaps_are_all_alike():
    assert set(gaps("constant", 8.0, n=100)) == {1 / 8}


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_one_seed_gives_the_same_pattern_at_every_rate(arrivals):
    assert gaps(arrivals, 10.0, n=1000) == pytest.approx(gaps(arrivals, 5.0, n=1000) / 2)


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_times_only_grow_and_begin_with_a_gap(arrivals):
    first, *_ = gaps(arrivals, 2.0, n=1)
    times = list(islice(times_s(arrivals, 2.0, np.random.default_rng(3)), 1000))
    assert times[0] == first
    assert times == sorted(times)


@pytest.mark.parametrize(("bursts", "rate", "mean_gap_s"), [(AZURE_CHAT, 5, 0.118), (AZURE_CODE, 7, 0.063)])
def test_azure_gaps_have_the_stated_mean_within_bursts_and_rate_over_all(bursts, rate, mean_gap_s):
    azure = gaps("azure", rate, n=400_000, bursts=bursts)
    assert np.median(azure) == pytest.approx(mean_gap_s * np.log(2), rel=0.05)  # the median of an exponential
    assert azure.mean() == pytest.approx(1 / rate, rel=0.05)
    pauses = azure[azure > 2.0]  # hardly any gap within a burst is so long
    assert len(pauses) / len(azure) == pytest.approx(bursts.pause_share * 2.0**-1.1, rel=0.1)


def test_azure_gaps_stay_within_the_stated_range():
    azure = gaps("azure", AZURE_CHAT.rate, n=400_000)
    assert azure.min() >= SHORTEST_GAP_S
    assert 100 < azure.max() <= LONGEST_GAP_S


def test_azure_is_far_burstier_than_poisson():
    azure = gaps("azure", 5.0)
    assert azure.std() / azure.mean() > 4

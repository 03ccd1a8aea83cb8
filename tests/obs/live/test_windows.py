"""Counts and durations of late."""

import random

import pytest

from preble.daemon.obs.live.windows import ENOUGH, Recent


def test_sums_and_durations_are_forgotten_slot_by_slot():
    recent = Recent(3)
    for slot in range(5):
        recent.add("tokens", 10**slot)
        recent.took("ttft", 5.0)
        recent.roll()
    assert recent.sum("tokens") == 10**3 + 10**4  # the slot that has begun is one of the three
    assert recent.spread("ttft").count == 2
    for _ in range(3):
        recent.roll()
    assert not recent
    assert recent.spread("ttft").count == 0


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_within_a_bucket_of_the_true_ones(seed):
    chance, recent = random.Random(seed), Recent(3)
    durations = sorted(chance.lognormvariate(4, 1.5) for _ in range(5000))
    for duration in durations:
        recent.took("ttft", duration)
    found = recent.spread("ttft")
    for share, percentile in ((0.5, found.p50_ms), (0.9, found.p90_ms), (0.99, found.p99_ms)):
        assert percentile == pytest.approx(durations[int(share * 5000) - 1], rel=0.055)


def test_too_few_tell_no_percentile():
    recent = Recent(3)
    for _ in range(ENOUGH - 1):
        recent.took("ttft", 1.0)
    assert (recent.spread("ttft").count, recent.spread("ttft").p50_ms) == (ENOUGH - 1, None)
    recent.took("ttft", 1.0)
    assert recent.spread("ttft").p50_ms == pytest.approx(1.0, rel=0.05)


def test_what_was_added_and_taken_off_again_leaves_nothing():
    recent = Recent(2)
    recent.add("served:t", 1000)
    recent.add("served:t", -1000)
    recent.roll()
    recent.roll()
    assert recent.named("served:") == {}

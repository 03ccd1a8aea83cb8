"""Cycles are looked for rarely, but they are."""

import gc
import weakref

import pytest

from preble.daemon.flow.garbage import collect_early, collect_rarely


class Knot:
    def __init__(self):
        self.itself = self


@pytest.fixture(autouse=True)
def as_before():
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def collections():
    return [generation["collections"] for generation in gc.get_stats()]


def test_cycles_go_in_the_end():
    collect_rarely()
    knot = weakref.ref(Knot())
    kept = [[] for _ in range(25_000)]
    assert knot() is None
    assert kept


def test_a_host_with_a_moment_to_spare_comes_before_that():
    collect_rarely()
    before = collections()
    kept = [[] for _ in range(9_000)]
    collect_early()
    assert collections() == before
    knot = weakref.ref(Knot())
    kept += [[] for _ in range(2_000)]
    collect_early()
    assert knot() is None
    assert collections() == [before[0] + 1, *before[1:]]


def test_older_objects_have_their_turn_then_too():
    collect_rarely()
    before = collections()
    kept = []
    for _ in range(22):
        kept += [[] for _ in range(10_500)]
        collect_early()
    young, middle, old = (now - then for now, then in zip(collections(), before, strict=True))
    assert (young + middle, middle, old) == (22, 1, 0)


def test_many_objects_that_stay_are_not_looked_at_again_and_again():
    collect_rarely()
    before = collections()
    kept = [[] for _ in range(300_000)]
    young, middle, old = (now - then for now, then in zip(collections(), before, strict=True))
    assert kept
    assert young < 30
    assert (middle, old) == (0, 0)


def test_what_is_there_already_is_left_alone():
    kept = [[] for _ in range(10_000)]
    collect_rarely()
    assert gc.get_freeze_count() >= len(kept)

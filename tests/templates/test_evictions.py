"""Prefixes whose last block comes and goes."""

from tests.core import keys

from preble.daemon.templates.evictions import PrefixWatch

A, B = (1, 1), (2, 3)
LONG, SHORT = keys("abcdefghijkl"), keys("abcd")


def watching(*used, most=10):
    """A watch of versions, each with its chain, its tenant and where it is."""
    watch = PrefixWatch(most)
    for version, chain, tenant, gpus in used:
        watch.used(chain[-1], version, tenant, lambda gpus=gpus: gpus)
    return watch


def test_what_was_whole_and_loses_its_last_block_is_lost_once():
    watch = watching((A, LONG, "acme", ()))
    assert not watch.removed("gpu0", LONG)
    watch.stored("gpu0", LONG)
    assert not watch.removed("gpu1", LONG)
    assert watch.removed("gpu0", LONG[::-1]) == {A: ["acme"]}
    assert not watch.removed("gpu0", LONG)
    watch.stored("gpu0", LONG[2:])
    assert watch.removed("gpu0", LONG[2:]) == {A: ["acme"]}


def test_where_it_is_already_is_asked_once():
    asked = []
    watch = PrefixWatch()
    for _ in range(2):
        watch.used(LONG[-1], A, "acme", lambda: asked.append(1) or ["gpu1"])
    assert len(asked) == 1
    assert watch.removed("gpu1", LONG) == {A: ["acme"]}


def test_versions_that_are_the_same_prefix_are_lost_together_and_what_is_shorter_is_not():
    watch = watching((A, LONG, "acme", ["gpu0"]), (B, LONG, "acme", ()), (A, SHORT, "acme", ["gpu0"]))
    assert watch.removed("gpu0", LONG[1:]) == {A: ["acme"], B: ["acme"]}
    assert watch.removed("gpu0", LONG[:1]) == {A: ["acme"]}


def test_the_same_version_in_two_caches_is_two_and_who_used_it_last_has_lost_it():
    other = keys("abcdefghijkl", salt="other")
    watch = watching((A, LONG, "acme", ["gpu0"]), (A, LONG, "zoo", ()), (A, other, "lone", ["gpu0"]))
    assert sorted(watch.removed("gpu0", LONG + other)[A]) == ["lone", "zoo"]


def test_a_cache_that_was_emptied_has_evicted_nothing():
    watch = watching((A, LONG, "acme", ["gpu0", "gpu1"]))
    watch.emptied("gpu0")
    assert not watch.removed("gpu0", LONG)
    assert watch.removed("gpu1", LONG) == {A: ["acme"]}


def test_what_was_used_last_longest_ago_is_watched_no_longer():
    watch = watching((A, LONG, "acme", ["gpu0"]), (B, SHORT, "acme", ["gpu0"]), (A, LONG, "acme", ()), most=2)
    watch.used(keys("wxyz")[-1], B, "acme", list)
    assert len(watch) == 2
    assert watch.removed("gpu0", SHORT + LONG) == {A: ["acme"]}


def test_a_stretch_has_the_longest_version_that_ends_in_it_and_of_equal_ones_the_one_used_last():
    watch = watching((A, LONG, "acme", ()), (B, LONG, "acme", ()), (A, LONG, "acme", ()), (B, SHORT, "acme", ()))
    assert watch.ending_in(LONG) == watch.ending_in(LONG[1:]) == A
    assert watch.ending_in(LONG[:2]) == B
    assert watch.ending_in(LONG[1:2]) is None
    assert watch.ending_in(()) is None


def test_where_versions_are_is_told_of_all_caches_together():
    watch = watching((A, LONG, "acme", ("gpu0",)), (A, keys("mnop"), "zoo", ("gpu2",)), (B, SHORT, "zoo", ()))
    watch.stored("gpu1", LONG)
    assert watch.whole() == {A: {"gpu0", "gpu1", "gpu2"}, B: {"gpu1"}}
    watch.removed("gpu0", LONG)
    assert watch.whole()[A] == {"gpu1", "gpu2"}

"""Evictions of templates, as engines report them."""

from dataclasses import replace

from tests.core import BLOCK, MODEL, keys, removed, stored, up
from tests.obs.test_metrics import settled

from preble.daemon.flow.events import BlocksCleared, EngineDown, KvReported
from preble.daemon.flow.evictions import EvictionCounter
from preble.daemon.templates.using import Named

TEXT = "abcdefghijkl"
VERSION = (7, 2)


class Counting:
    """A counter on one GPU, that has what it is told."""

    def __init__(self, there=0):
        self.evicted, self.asked = [], []
        self._there = there
        self.counter = EvictionCounter(lambda version, tenant: self.evicted.append((version, tenant)))
        self.counter.attach(self._residency)
        self(up("gpu0"))

    def _residency(self, model, chain):
        self.asked.append((model, tuple(chain)))
        return {"gpu0": self._there}

    def __call__(self, *events):
        for event in events:
            self.counter.stepped(0.0, event, ())
        return len(self.evicted)

    def use(self, text=TEXT):
        self.counter.used(VERSION, "acme", MODEL, keys(text))


def test_each_time_that_a_prefix_goes_from_a_gpu_is_counted():
    counting = Counting()
    counting.use()
    assert counting(stored("gpu0", TEXT), removed("gpu0", TEXT)) == 1
    assert counting(removed("gpu0", TEXT[:-BLOCK])) == 1
    assert counting(stored("gpu0", TEXT), removed("gpu0", TEXT)) == 2
    assert counting.evicted == [(VERSION, "acme")] * 2


def test_what_was_there_before_it_was_watched_counts_only_if_it_was_whole():
    for there, evicted in ((3, 1), (2, 0)):
        counting = Counting(there)
        counting.use()
        assert counting(removed("gpu0", TEXT)) == evicted


def test_that_an_engine_ends_restarts_or_empties_its_cache_is_no_eviction():
    cleared = KvReported(gpu="gpu0", epoch=1, changes=(BlocksCleared(),))
    down, again = EngineDown(gpu="gpu0"), up("gpu0", epoch=2)
    for gone in ([down], [cleared], [down, again], [again]):
        counting = Counting()
        counting.use()
        counting(stored("gpu0", TEXT), *gone)
        assert counting(*(removed("gpu0", TEXT, epoch=epoch) for epoch in (1, 2))) == 0


def test_what_an_engine_reported_before_it_was_restarted_says_nothing_any_more():
    counting = Counting()
    counting.use()
    counting(up("gpu0", epoch=2), stored("gpu0", TEXT, epoch=1))
    assert counting(removed("gpu0", TEXT, epoch=2)) == 0
    counting(stored("gpu0", TEXT, epoch=2))
    assert counting(removed("gpu0", TEXT, epoch=1)) == 0
    assert counting(removed("gpu0", TEXT, epoch=2)) == 1


def test_a_template_is_watched_in_the_cache_of_the_request_that_named_it():
    counting, chain = Counting(), keys(TEXT + "of a request", salt="its own")
    named = Named(template_id=7, name="a", version=2, tokens=len(TEXT), blocks=len(TEXT) // BLOCK)
    one = settled(block_keys=chain)
    counting.counter.settled(one)
    counting.counter.settled(replace(one, call=replace(one.call, template=replace(named, tokens=0, blocks=0))))
    counting.counter.settled(replace(one, block_keys=(), call=replace(one.call, template=named)))
    assert not counting.asked
    counting.counter.settled(replace(one, call=replace(one.call, template=named)))
    assert counting.asked == [(one.call.model, keys(TEXT, salt="its own"))]
    assert counting(stored("gpu0", TEXT, salt="its own")) == 0
    assert counting(stored("gpu0", TEXT), removed("gpu0", TEXT)) == 0

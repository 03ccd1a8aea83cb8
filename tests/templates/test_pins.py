"""What pins need: when they are warmed, where, how often, and what they have room for."""

from dataclasses import replace

import pytest

from preble.daemon.errors import Conflict, InvalidRequest
from preble.daemon.ids import BlockKey, GpuId, KeyId, ModelName, TenantName
from preble.daemon.templates.demand import FULL_RATIO, WINDOW_S, Demand
from preble.daemon.templates.pins import SPARE_RATIO, STAYS_S, GpuRoom, Pin, Pins

BLOCKS = 10
KEYS = tuple(BlockKey(number) for number in range(BLOCKS))
PIN = Pin(
    tenant=TenantName("t"),
    template_id=1,
    reference="",
    model=ModelName("m"),
    replicas=1,
    max_replicas=1,
    expires_at_s=None,
    created_at_s=0.0,
    created_by=KeyId("k"),
)


class Stand:
    """Pins on two GPUs of 100 blocks, whose caches the test fills."""

    def __init__(self, share=0.2):
        self.pins = Pins(share)
        self.there = {}
        self.gpus = [GpuRoom(gpu=GpuId(name), kv_blocks=100, takes_new=True) for name in ("a", "b")]
        self.pinned = set()

    def put(self, keys=KEYS, **changes):
        held = self.pins.put(replace(PIN, **changes))
        self.pins.read(held, 1, 32 * len(keys), keys)
        return held

    def look(self, held, now_s=0.0):
        todo = self.pins.look(held, self.gpus, self.there, now_s)
        self.note()
        return None if todo is None else (sorted(todo.among), todo.count)

    def warm(self, held, gpu, now_s=0.0, problem=None, *, stays=True):
        self.pins.began(held, GpuId(gpu), now_s)
        if problem is None and stays:
            self.there[gpu] = len(held.keys)
        self.pins.ended(held, GpuId(gpu), problem, now_s)
        self.note()

    def note(self):
        for change in self.pins.take_changes():
            place = change.gpu, change.keys
            assert (place in self.pinned) != change.pinned
            (self.pinned.add if change.pinned else self.pinned.remove)(place)


@pytest.fixture
def stand():
    return Stand()


def test_what_is_cold_is_warmed_once(stand):
    held = stand.put()
    assert stand.look(held) == (["a", "b"], 1)
    stand.pins.began(held, GpuId("a"), 0.0)
    assert stand.look(held) is None
    assert held.state(GpuId("a"), 0) == "warming"
    assert held.state(GpuId("b"), 4) == "partial"
    stand.warm(held, "a")
    assert stand.look(held) is None
    assert (held.state(GpuId("a"), BLOCKS), held.state(GpuId("b"), 0)) == ("warm", "cold")
    assert stand.pinned == {("a", KEYS)}


def test_what_is_there_already_is_kept_without_work(stand):
    held = stand.put()
    stand.there["b"] = BLOCKS
    assert stand.look(held) is None
    assert stand.pinned == {("b", KEYS)}
    assert held.warm_ups == 0


def test_what_stayed_long_is_warmed_again_at_once_and_what_did_not_later_and_later(stand):
    held = stand.put()
    stand.look(held)
    stand.warm(held, "a")
    del stand.there["a"]
    now_s = STAYS_S
    assert stand.look(held, now_s) == (["a", "b"], 1)
    waits = []
    for _ in range(12):
        stand.warm(held, "a", now_s, stays=False)
        assert stand.look(held, now_s) is None
        waits.append(stand.pins.next_s(now_s))
        assert stand.look(held, now_s + 0.99 * waits[-1]) is None
        now_s += waits[-1]
        assert stand.look(held, now_s) is not None
    assert waits[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert waits[-1] == waits[-2] == 300.0
    assert held.evictions == 13


def test_what_fails_is_tried_later(stand):
    held = stand.put()
    stand.look(held)
    stand.warm(held, "a", problem="it is gone")
    assert (held.problem, stand.pinned) == ("it is gone", set())
    assert stand.look(held, 0.5) is None
    assert held.problem == "it is gone"
    assert stand.look(held, 1.0) == (["a", "b"], 1)


def test_an_engine_that_is_gone_says_nothing_about_the_others(stand):
    held = stand.put()
    stand.look(held)
    stand.warm(held, "a")
    gone = stand.gpus.pop(0)
    stand.there.clear()
    assert stand.look(held, 1.0) == (["b"], 1)
    assert (held.evictions, stand.pinned) == (0, set())
    stand.gpus = [replace(gone, takes_new=False)]
    assert stand.look(held, 1.0) is None
    stand.gpus = [gone]
    assert stand.look(held, 1.0) == (["a"], 1)


def test_another_version_or_salt_makes_what_is_there_stale_until_it_is_warm_again(stand):
    held = stand.put()
    stand.look(held)
    stand.warm(held, "a")
    other = tuple(BlockKey(key + 100) for key in KEYS)
    stand.there.clear()
    stand.pins.read(held, 2, 320, other)
    assert stand.look(held) == (["a", "b"], 1)
    assert [held.state(GpuId(gpu), 0) for gpu in ("a", "b")] == ["stale", "cold"]
    stand.warm(held, "a")
    stand.look(held)
    assert held.state(GpuId("a"), BLOCKS) == "warm"
    assert stand.pinned == {("a", other)}
    del stand.there["a"]
    stand.look(held)
    assert held.state(GpuId("a"), 0) == "cold"


def test_no_more_than_its_share_of_a_gpu_is_pinned(stand):
    ours, theirs, third = (
        stand.put(template_id=number, keys=tuple(BlockKey(100 * number + key) for key in range(12)))
        for number in range(3)
    )
    for held, gpu in ((ours, "a"), (theirs, "b")):
        stand.pins.began(held, GpuId(gpu), 0.0)
    assert stand.look(third) is None
    assert "8 more can be pinned" in third.problem
    stand.there["a"] = 12  # by chance
    assert stand.look(third) is None
    assert third.homes == {}
    stand.pins.drop(ours.pin.key)
    assert stand.look(third) is None
    assert list(third.homes) == ["a"]


def test_two_pins_of_one_prefix_keep_it_until_both_are_gone(stand):
    one, other = stand.put(), stand.put(reference="production")
    stand.there["a"] = BLOCKS
    for held in (one, other):
        stand.pins.look(held, stand.gpus, stand.there, 0.0)
    stand.pins.take_changes()
    stand.pins.drop(one.pin.key)
    assert stand.pins.take_changes() == []
    stand.pins.drop(other.pin.key)
    assert [change.pinned for change in stand.pins.take_changes()] == [False]


def test_replicas_follow_what_requests_take(stand):
    held = stand.put(max_replicas=2)
    stand.there["a"] = BLOCKS
    assert stand.look(held) is None
    full_ms = 1000 * WINDOW_S * FULL_RATIO
    held.demand.add(full_ms, 0.0)
    assert stand.look(held, 1.0) is None
    held.demand.add(1.0, 1.0)
    assert stand.look(held, 1.0) == (["b"], 1)
    stand.warm(held, "b", 1.0)
    assert len(stand.pinned) == 2
    assert stand.look(held, 2 * WINDOW_S) is None
    assert stand.pinned == {("a", KEYS)}
    assert held.state(GpuId("b"), BLOCKS) == "warm"  # until somebody needs the room


def test_demand_is_that_of_the_last_minute():
    demand = Demand()
    for second in range(200):
        demand.add(1000 * FULL_RATIO, float(second))
    assert demand.gpus(199.0) == 1
    demand.add(1000 * WINDOW_S * FULL_RATIO * 3, 199.0)
    assert demand.gpus(199.0) == 4
    assert demand.gpus(199.0 + WINDOW_S) == 0


def test_what_would_soon_be_evicted_is_used_but_not_all_the_time(stand):
    held = stand.put()
    stand.there["a"] = BLOCKS
    stand.look(held)
    enough = int(SPARE_RATIO * 100)
    gpu = GpuId("a")
    assert not stand.pins.to_use(held, gpu, enough, 100, 5.0)
    assert stand.pins.to_use(held, gpu, enough - 1, 100, 5.0)
    stand.warm(held, "a", 5.0)
    assert not stand.pins.to_use(held, gpu, 0, 100, 5.05)
    assert stand.pins.to_use(held, gpu, 0, 100, 6.0)


def test_there_must_be_room_for_a_pin():
    stand = Stand()
    stand.put(template_id=2, replicas=2, max_replicas=2)
    check = stand.pins.check
    check(PIN, BLOCKS, stand.gpus)
    with pytest.raises(InvalidRequest, match="21 blocks; of a GPU 20"):
        check(PIN, 21, stand.gpus)
    with pytest.raises(InvalidRequest, match="3 are wanted, and 2"):
        check(replace(PIN, replicas=3, max_replicas=3), 1, stand.gpus)
    with pytest.raises(Conflict, match="20 are pinned of 40"):
        check(replace(PIN, replicas=2, max_replicas=2), BLOCKS + 1, stand.gpus)
    check(replace(PIN, template_id=2), 2 * BLOCKS, stand.gpus)  # in place of the one that is there
    check(PIN, 1000, [])  # nobody can say yet
    assert stand.pins.tokens_of(TenantName("t")) == 2 * 320
    assert stand.pins.tokens_of(TenantName("t"), KeyId("other")) == 0
    assert stand.pins.tokens_of(TenantName("u")) == 0


def test_where_a_pin_would_be_kept_is_where_it_is_then_where_all_of_it_is_then_what_comes_first(stand):
    """Tried out against what is then done."""
    stand.gpus.append(GpuRoom(gpu=GpuId("c"), kv_blocks=100, takes_new=True))
    by_cost = [stand.gpus[2], stand.gpus[0], stand.gpus[1]]

    def places(replicas, whole=(), **changes):
        found = stand.pins.places(replace(PIN, replicas=replicas, **changes), KEYS, by_cost, whole)
        return [room.gpu for room in found]

    assert places(1) == ["c"]
    assert places(2, whole=[GpuId("b")]) == ["b", "c"]
    held = stand.put(replicas=1)
    stand.warm(held, "a")
    assert places(2, whole=[GpuId("a"), GpuId("b")]) == ["a", "b"]
    assert places(1, reference="2", whole=[GpuId("a")]) == ["a"], "there is room for both"
    assert stand.pins.pinned_blocks(GpuId("a")) == BLOCKS
    assert stand.pins.pinned_blocks(GpuId("a"), PIN.key) == 0


def test_a_pin_is_kept_neither_where_nothing_new_goes_nor_where_there_is_no_room(stand):
    stand.gpus[0] = replace(stand.gpus[0], takes_new=False)
    stand.warm(stand.put(reference="1", keys=tuple(map(BlockKey, range(100, 115)))), "b")
    wanted = replace(PIN, replicas=2)
    assert stand.pins.places(wanted, KEYS, stand.gpus, []) == []
    assert [room.gpu for room in stand.pins.places(wanted, KEYS, stand.gpus, [GpuId("a")])] == ["a"]

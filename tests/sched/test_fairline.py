"""The line before one engine: fairness between tenants first, then what is cached, then who came first."""

from dataclasses import replace

import hypothesis.strategies as st
import msgspec
from hypothesis import given
from tests.core import CONFIG, LIMITS, Bench, spec, up

from preble.daemon.flow import events
from preble.daemon.priority import Priority
from preble.daemon.sched.fairline import FairLine


class Turns:
    """Says what it is told to say."""

    def __init__(self, weights=None, *, are_by_tenant=True):
        self.only = None
        self.light = ()
        self.are_by_tenant = are_by_tenant
        self._weights = weights or {}

    def weight(self, tenant):
        return self._weights.get(tenant, 1.0)

    def admissible(self, tenants):
        return [tenant for tenant in tenants if self.only in (None, tenant)]

    def is_light(self, tenant):
        return tenant in self.light

    def rank(self, tenant):
        return 0.0


def line(waiting, turns=None, *, grouped=True):
    """`waiting` has a tenant and a cached share for each name, which may be changed later."""
    fair = FairLine(lambda name: waiting[name][1], turns or Turns(), grouped=grouped)
    for name, (tenant, _) in waiting.items():
        fair.add(name, tenant, name)
    return fair


def drain(fair):
    order = []
    while (name := fair.first()) is not None:
        order.append(fair.start(name))
    return order


def test_of_those_whose_turn_it_is_the_most_cached_starts_first():
    assert drain(line({"a": ("x", 0.1), "b": ("y", 0.9), "c": ("z", 0.5)})) == ["b", "c", "a"]


def test_who_came_first_starts_first_where_as_much_is_cached():
    assert drain(line({"a": ("y", 0.5), "b": ("x", 0.5), "c": ("y", 0.5)})) == ["a", "b", "c"]
    assert drain(line({"a": ("y", 0.1), "b": ("x", 0.9)}, grouped=False)) == ["a", "b"]


def test_whose_turn_it_is_not_does_not_start_whatever_is_cached():
    turns = Turns()
    fair = line({"a": ("x", 0.9), "b": ("y", 0.0)}, turns)
    turns.only = "y"
    assert fair.first() == "b"


def test_others_wait_for_a_tenants_requests_as_far_as_their_turns_come_in_between():
    waiting = {"a": ("x", 0), "b": ("x", 0), **{f"c{number}": ("y", 0) for number in range(20)}}
    fair = line(waiting, Turns({"y": 3.0}))
    n_kept = {tenant: fair.before(tenant, 5)[1] for tenant in "xyz"}
    assert n_kept == {"x": 2 + 2 * 3, "y": 22, "z": 0}  # of y 20 and a third of it, but there are not so many
    assert line(waiting, Turns({"y": 3.0}, are_by_tenant=False)).before("z", 5)[1] == 22
    for name in list(fair):
        fair.remove(name)
    assert fair.before("x", 5) == (0, 0)


def test_work_before_a_tenants_next_is_its_own_and_what_others_get_meanwhile():
    turns = Turns({"y": 3.0})
    fair = line({}, turns, grouped=False)
    for name, tenant, work in (("0", "x", 10), ("1", "y", 500), ("2", "x", 20)):
        fair.add(name, tenant, name, work)
    assert fair.work == 530
    work = {tenant: fair.before(tenant, 5)[0] for tenant in "xyz"}
    assert work == {"x": 30 + 3 * (30 + 5), "y": 500 + 30, "z": 4 * 5}  # of y a third of it, but there is not so much
    turns.light = "xz"
    assert [fair.before(tenant, 5)[0] for tenant in "xz"] == [30, 0]
    fair.remove("1")
    assert (fair.work, fair.before("x", 6), fair.before("y", 6)) == (30, (30, 2), (6 / 3, 0))
    plain = line({"a": ("x", 0)}, Turns(are_by_tenant=False))
    assert plain.before("y", 5) == (0, 1)


def test_what_waits_is_listed_in_the_order_of_arrival():
    fair = line({"a": ("y", 0.1), "b": ("x", 0.2), "c": ("y", 0.3)})
    assert (list(fair), len(fair), "b" in fair) == (["a", "b", "c"], 3, True)
    assert fair.remove("b") == "b"
    assert (list(fair), len(fair), "b" in fair) == (["a", "c"], 2, False)
    assert fair.last(1) == ["a"]  # the least cached of the only tenant's


def test_the_last_are_those_of_the_tenant_with_most_waiting():
    fair = line({"a": ("y", 0.1), "b": ("x", 0.2), "c": ("y", 0.3)})
    assert fair.last(5) == ["a"]
    fair.add("d", "x", "a")
    fair.add("e", "x", "a")
    assert fair.last(1) == ["a"]
    assert line({}).last(1) == []
    assert line({}).first() is None


@given(
    st.lists(st.tuples(st.sampled_from("wxyz"), st.floats(0, 1)), max_size=30),
    st.lists(st.integers(0, 29), max_size=10, unique=True),
)
def test_everyone_starts_once_and_nobody_who_left(items, leaving):
    waiting = {f"{number}": item for number, item in enumerate(items)}
    fair = line(waiting)
    gone = {f"{number}" for number in leaving if f"{number}" in waiting}
    for name in gone:
        fair.remove(name)
    assert sorted(drain(fair)) == sorted(waiting.keys() - gone)
    assert len(fair) == 0


# --- in the machine ---


def starts(house, n, output_tokens=4):
    """The tenants of the next `n` requests to start, as those that run end."""
    order = []
    running = [effect for effect in house.seen if type(effect).__name__ == "Dispatch"]
    for _ in range(n):
        ended = running.pop(0)
        effects = house(events.Finished(attempt_id=ended.attempt_id, output_tokens=output_tokens))
        begun = [effect for effect in effects if type(effect).__name__ == "Dispatch"]
        order += [effect.request_id.partition(":")[0] for effect in begun]
        running += begun
    return order


def flooded(quantum_s=CONFIG.quantum_s, **standing):
    """One GPU before which a flooder has forty requests, and then another tenant comes with ten."""
    house = Bench("a", config=msgspec.structs.replace(CONFIG, quantum_s=quantum_s))
    for tenant, (weight, is_batch) in standing.items():
        house(events.TenantStands(tenant=tenant, weight=weight, is_batch=is_batch))
    for tenant, n in (("flooder", 40), ("other", 10)):
        for number in range(n):
            text = f"{tenant}{number:>3}".ljust(100, "x")
            house(events.Arrived(request=spec(f"{tenant}:{number}", text, tenant=tenant)))
    return house


def n_started(house, tenant):
    """Requests of the tenant that have gone to an engine, since whenever."""
    dispatched = [effect for effect in house.seen if type(effect).__name__ == "Dispatch"]
    return sum(effect.request_id.startswith(tenant) for effect in dispatched)


def test_what_others_have_in_an_engine_does_not_keep_a_light_tenant_from_it():
    house = flooded(quantum_s=0.25)  # of which the flooder has used up what a light one has
    assert (n_started(house, "flooder"), n_started(house, "other")) == (2, 2)  # as many as if it were alone there
    assert n_started(flooded(other=(1.0, True)), "other") == 0


def test_in_an_engine_too_a_light_tenant_comes_before_the_others_and_batch_behind_them():
    def priorities(house):
        dispatched = [effect for effect in house.seen if type(effect).__name__ == "Dispatch"]
        return {effect.request_id.partition(":")[0]: effect.priority for effect in dispatched}

    assert priorities(flooded(quantum_s=0.25)) == {"flooder": Priority.USUAL, "other": Priority.LIGHT}
    batch = flooded(other=(1.0, True))
    starts(batch, 45)
    assert priorities(batch) == {"flooder": Priority.USUAL, "other": Priority.YIELDING_BATCH}


def test_who_comes_after_a_flood_does_not_wait_for_its_end():
    house = flooded()
    starts(house, 18)
    assert n_started(house, "other") == 10  # in turn


def test_weights_and_classes_are_those_that_operators_set():
    house = flooded(quantum_s=0.1, other=(9.0, False))
    starts(house, 14)
    assert n_started(house, "other") == 10
    behind = starts(flooded(flooder=(1.0, False), other=(1.0, True)), 30)
    assert behind.count("other") <= 2


def test_a_request_that_is_run_again_is_charged_for_the_time_it_had_before():
    house = Bench("a", config=CONFIG)
    decision = house.arrive("r", "x" * 100, tenant="t")
    account = house.machine._turns._accounts["t"]
    charged_ms = account.balance_ms
    house.now_s = 0.01
    house(events.EngineDown(gpu="a"))
    assert account.balance_ms == 1000 * CONFIG.quantum_s - 10.0
    house(events.Failed(attempt_id=decision.attempt_id, retry=True))
    house(up("a", epoch=2))
    assert account.balance_ms == charged_ms - 10.0
    last = house.seen[-1]
    assert last.attempt_id != decision.attempt_id
    house(events.Finished(attempt_id=last.attempt_id, output_tokens=4))
    assert (account.running, account.waiting) == (0, 0)


def n_at_once(house, tenant, n=12):
    """How many of a tenant's small requests the engine runs together, of which it could run eight."""
    before = n_started(house, tenant)
    for number in range(n):
        house.arrive(f"{tenant}:{number}", f"{tenant}{number}", tenant=tenant)
    return n_started(house, tenant) - before


def reserving(**limits):
    """One engine of which a quarter is for those that want little, and a tenant that wants much."""
    config = msgspec.structs.replace(CONFIG, light_reserve_ratio=0.25, quantum_s=0.001)
    house = Bench("a", config=config, limits=replace(LIMITS, **limits))
    for number in range(10):
        house.finish(house.arrive(f"before:{number}", f"{number}before", tenant="flooder"), output_tokens=16)
    return house


def test_others_leave_room_for_a_light_tenant_that_has_come_of_late():
    house = reserving()
    house.finish(house.arrive("o", "other", tenant="other"))
    assert n_at_once(house, "flooder") == 6
    assert n_at_once(house, "other") == 2
    assert n_at_once(reserving(), "flooder") == 8  # alone it gets everything


def test_room_is_left_for_a_minute():
    house = reserving()
    house.finish(house.arrive("o", "other", tenant="other"))
    house.now_s = 61.0
    assert n_at_once(house, "flooder") == 8


def test_room_is_left_in_the_kv_cache_too():
    alone = n_at_once(reserving(kv_blocks=40), "flooder")  # a request takes some six blocks
    house = reserving(kv_blocks=40)
    house.finish(house.arrive("o", "other", tenant="other"))
    with_other = n_at_once(house, "flooder")
    assert with_other < alone < 8
    assert house.view("a").held_blocks <= 30
    assert n_at_once(house, "other") >= 1

"""What an order for a GPU would do, before it is given."""

from tests.core import Bench, stored

from preble.daemon.flow import events
from preble.daemon.flow.foresight import drained, restarted, undrained
from preble.daemon.ids import GpuId


def busy(*gpus):
    """The first has eight requests that run and three that wait; 16 tokens are cached there."""
    bench = Bench(gpus[0])
    for number in range(11):
        bench.arrive(f"r{number}", f"{number:04}" * 5, tenant="acme" if number < 9 else "zoo")
    for gpu in gpus[1:]:
        bench(events.DrainChanged(gpu=GpuId(gpu), draining=True))
        bench.now_s += 0.001
    bench(stored(gpus[0], "abcdefghabcdefgh"))
    return bench


def test_what_runs_finishes_what_waits_stays_if_there_is_nobody_else():
    bench = busy("a")
    said = drained("a", bench.machine.foresee(GpuId("a"), bench.now_s))
    assert said[0] == "a gets no new requests, and nobody else can."
    assert "running requests finish first (longest about" in said[1]
    assert said[2].endswith("stay: nobody else serves the model.")
    assert said[-1].startswith("Tenants with most there: acme")


def test_what_waits_moves_to_where_it_would_be_placed_now():
    bench = Bench("a", "b")
    bench(events.DrainChanged(gpu=GpuId("b"), draining=True))
    for number in range(11):
        bench.arrive(f"r{number}", f"{number:04}" * 5)
    waiting = next(view for view in bench.machine.views(bench.now_s) if view.gpu == "a").waiting
    assert waiting > 1
    seen = bench.machine.foresee(GpuId("a"), bench.now_s)
    assert seen.moves == {}
    # as if b were back, but before anything has been moved there
    scheduler = bench.machine._scheduler
    scheduler.drain(scheduler.engines[GpuId("b")], False)
    seen = bench.machine.foresee(GpuId("a"), bench.now_s)
    assert seen.moves == {"b": waiting}
    assert f"{waiting} waiting move to others: b {waiting}." in drained("a", seen)


def test_a_restart_loses_the_cache_and_a_drain_does_not():
    bench = busy("a")
    seen = bench.machine.foresee(GpuId("a"), bench.now_s)
    assert seen.cached_tokens == 16
    lost = "16 cached tokens would be lost (100 % of the model's)."
    assert lost in restarted("a", seen)
    assert lost not in drained("a", seen)
    assert undrained("a", seen) == ["a takes new requests again; 16 tokens are cached there."]


def test_looking_ahead_changes_nothing():
    bench = busy("a")
    before = bench.machine.views(bench.now_s)
    bench.machine.foresee(GpuId("a"), bench.now_s)
    assert bench.machine.views(bench.now_s) == before


def test_of_an_engine_that_was_never_up_nothing_is_known():
    assert Bench("a").machine.foresee(GpuId("z"), 0.0) is None

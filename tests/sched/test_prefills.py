"""Long prompts give way to tenants that want little, and still come to their end."""

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from tests.core import CONFIG, LIMITS, Bench, keys, spec, stored

from preble.daemon.flow import events
from preble.daemon.flow.effects import Dispatch, Ended, Outcome, Placed, Preempt, Refusal, Refuse

LONG = "x" * 900  # nine steps


def flooded(n=3, **config):
    """One GPU that computes the first of a flooder's long prompts; the others wait."""
    bench = Bench("a", config=msgspec.structs.replace(CONFIG, **config))
    for number in range(n):
        bench.arrive(f"flood{number}", f"{number}{LONG}", tenant="flood")
    assert bench.dispatched() == ["flood0"]
    return bench


def attempt_of(bench, name):
    """Its latest."""
    return [effect for effect in bench.seen if isinstance(effect, Dispatch) and effect.request_id == name][
        -1
    ].attempt_id


def preempted(effects):
    return [effect.request_id for effect in effects if isinstance(effect, Preempt)]


def small(bench, name, n_tokens=40, tenant="other"):
    return bench(events.Arrived(request=spec(name, name[-1] * n_tokens, tenant=tenant)))


def stop(bench, name):
    """The engine has taken an attempt out, as it was told to."""
    return bench(events.Failed(attempt_id=attempt_of(bench, name), retry=True))


def computed(bench, name):
    return bench(events.FirstToken(attempt_id=attempt_of(bench, name)))


def test_a_long_prompt_gives_way_and_runs_again_behind_whom_it_gave_way_to():
    bench = flooded()
    effects = small(bench, "o1")
    assert [type(effect) for effect in effects] == [Placed, Dispatch, Preempt]
    assert (effects[1].priority, preempted(effects)) == (0, ["flood0"])
    bench(stored("a", "0" + LONG[:399]))
    assert bench.dispatched() == ["flood0", "o1"]
    stop(bench, "flood0")
    computed(bench, "o1")
    assert bench.dispatched() == [
        "flood0",
        "o1",
        "flood0",
    ]  # not another of the flooder's: most of its prompt is cached
    again = [effect.decision for effect in bench.seen if isinstance(effect, Placed)][-1]
    assert (again.request_id, again.cached_tokens) == ("flood0", 400)


def test_it_does_not_give_way_twice_at_once():
    bench = flooded()
    assert preempted(small(bench, "o1")) == ["flood0"]
    assert preempted(small(bench, "o2")) == []


def test_a_prompt_that_a_step_would_finish_does_not_give_way():
    bench = flooded()
    bench(stored("a", "0" + LONG[:803]))
    assert preempted(small(bench, "o1")) == []


def test_who_it_gives_way_to_is_reckoned_to_wait_for_no_more_than_a_step():
    bench = flooded()

    def wait_ms(tenant):
        return bench.preview("p", "p" * 40, tenant=tenant).candidates[0].wait_ms

    assert wait_ms("other") == pytest.approx(100.0, rel=0.02)  # of the 900 ms of the one that is under way
    assert wait_ms("flood") > 2700.0


@pytest.mark.parametrize("fairness", ["none", "vtc"])
def test_where_nobody_is_light_nothing_gives_way(fairness):
    bench = flooded(fairness=fairness)
    assert preempted(small(bench, "o1")) == []


def test_nothing_gives_way_to_a_tenants_own_requests_or_while_nobody_waits():
    assert preempted(small(flooded(), "o1", tenant="flood")) == []
    assert preempted(small(flooded(1), "o1")) == []


def test_after_some_times_it_gives_way_only_once_more_of_it_is_computed():
    bench = flooded()
    times = Counter()
    for number in range(40):
        name = f"o{number:02}"
        (given_way,) = preempted(small(bench, name, 4)) or [None]
        if given_way is None:
            break
        times[given_way] += 1
        stop(bench, given_way)
        computed(bench, name)
        bench(events.Finished(attempt_id=attempt_of(bench, name), output_tokens=1))
    running = bench.dispatched()[-2]
    assert times[running] == 8
    bench(stored("a", running[-1] + LONG[:99]))
    assert preempted(small(bench, "p", 4)) == [running]


def test_its_tenant_is_charged_once():
    """What it was charged for and has not had is for when it runs again, and given back if it does not."""
    bench = flooded(1, quantum_s=0.5)
    bench.arrive("flood1", f"1{LONG}", tenant="flood")
    credit_ms = bench.machine.standings(["flood"])["flood"].credit_ms
    small(bench, "o1", 4)
    stop(bench, "flood0")
    assert bench.machine.standings(["flood"])["flood"].credit_ms == credit_ms
    assert bench.dispatched() == ["flood0", "o1"]
    ended = bench(events.ClientGone(request_id="flood0"))
    assert Ended(request_id="flood0", outcome=Outcome.CANCELLED) in ended
    assert bench.dispatched()[-1] == "flood1"
    assert bench.machine.standings(["flood"])["flood"].credit_ms == credit_ms  # given back, and charged for the other


def test_its_gpu_time_is_that_of_all_its_tries():
    plain, bench = Bench("a"), flooded(2)
    plain.arrive("flood0", f"0{LONG}", tenant="flood")
    small(bench, "o1")
    bench.now_s = 0.4
    bench(stored("a", "0" + LONG[:399]))
    stop(bench, "flood0")
    computed(bench, "o1")
    gpu_ms = [
        effect.gpu_ms
        for one in (plain, bench)
        for effect in one(events.Finished(attempt_id=attempt_of(one, "flood0"), output_tokens=4))
        if isinstance(effect, Ended)
    ]
    assert gpu_ms[1] == pytest.approx(gpu_ms[0], rel=0.1)


def test_it_counts_once_in_the_load_of_its_gpu():
    bench = flooded(2)
    load_ms = bench.view("a").load_ms
    small(bench, "o1", 4)
    own_ms = bench.view("a").load_ms - load_ms
    stop(bench, "flood0")
    assert bench.view("a").load_ms == pytest.approx(load_ms + own_ms)


def test_a_client_that_leaves_meanwhile_ends_it():
    bench = flooded()
    small(bench, "o1")
    bench(events.ClientGone(request_id="flood0"))
    assert Ended in [type(effect) for effect in stop(bench, "flood0")]


def test_what_was_to_warm_an_engine_that_is_gone_does_not_run_again():
    bench = Bench("a", "b")
    bench(events.Arrived(request=replace(spec("w", LONG, tenant="flood"), warms="a")))
    for number in range(3):
        bench.arrive(f"flood{number}", f"{number}{LONG}", tenant="flood")
    bench(events.DrainChanged(gpu="b", draining=True))
    assert preempted(small(bench, "o1")) == ["w"]
    bench(events.EngineDown(gpu="a"))
    assert stop(bench, "w") == (
        Refuse(request_id="w", why=Refusal.NO_ENGINE),
        Ended(request_id="w", outcome=Outcome.FAILED, gpu_ms=0.0),
    )


def test_a_light_tenant_may_have_three_times_as_much_under_way_while_others_wait():
    bench = flooded()
    for number in range(8):
        small(bench, f"o{number}", 100)
    assert bench.dispatched() == ["flood0", "o0", "o1", "o2", "o3", "o4", "o5"]


def test_a_light_tenant_without_credit_starts_where_those_with_credit_cannot():
    bench = Bench("a", config=msgspec.structs.replace(CONFIG, quantum_s=0.1))
    bench(events.TenantStands(tenant="flood", weight=10.0, is_batch=False))
    for number in range(20):  # rounds of quanta, of which "other" wants none
        bench.run(f"busy{number}", "x" * 90, tenant="busy")
    for number in range(2):
        bench.arrive(f"flood{number}", f"{number}{LONG}", tenant="flood")
    for number in range(5):
        small(bench, f"o{number}", 30)
        computed(bench, f"o{number}")
    credit_ms = {name: one.credit_ms for name, one in bench.machine.standings(["flood", "other"]).items()}
    assert credit_ms["flood"] > 0 > credit_ms["other"]
    assert bench.dispatched()[-6:] == ["flood0", "o0", "o1", "o2", "o3", "o4"]


def test_beside_short_prompts_a_light_tenant_waits_for_its_turn():
    config = msgspec.structs.replace(CONFIG, quantum_s=0.1)
    bench = Bench("a", config=config, limits=replace(LIMITS, max_num_seqs=64))
    bench(events.TenantStands(tenant="flood", weight=10.0, is_batch=False))
    for number in range(20):
        bench.run(f"busy{number}", "x" * 90, tenant="busy")
    for number in range(9):
        bench.arrive(f"flood{number}", f"{number}" * 90, tenant="flood")
    n_started = 0
    for number in range(9):
        small(bench, f"o{number}", 30)
        if bench.dispatched()[-1] != f"o{number}":
            break
        computed(bench, f"o{number}")
        n_started += 1
    assert n_started == 6
    credit_ms = {name: one.credit_ms for name, one in bench.machine.standings(["flood", "other"]).items()}
    assert credit_ms["flood"] > 0
    assert credit_ms["flood"] / 10 > credit_ms["other"]  # for its weight: it comes next, and has no room


def test_the_index_tells_how_far_a_chain_is_computed():
    bench = flooded(1)
    bench(stored("a", "0" + LONG[:399]))
    assert bench.machine.cached_blocks("m", keys("0" + LONG))["a"] == 225
    assert bench.machine.residency("m", keys("0" + LONG))["a"] == 100

"""What an engine may have to prefill, and who need not wait for it."""

from dataclasses import replace

import msgspec
import pytest
from tests.core import CONFIG, LIMITS, Bench, keys, spec, stored

from preble.daemon.flow import events
from preble.daemon.flow.effects import Dispatch

LONG = "x" * 900  # nine steps


def flooded(n=3, **config):
    """One GPU that computes the first of a flooder's long prompts; the others wait."""
    bench = Bench("a", config=msgspec.structs.replace(CONFIG, **config))
    for number in range(n):
        bench.arrive(f"flood{number}", f"{number}{LONG}", tenant="flood")
    assert bench.dispatched() == ["flood0"]
    return bench


def attempt_of(bench, name):
    (dispatch,) = [one for one in bench.seen if isinstance(one, Dispatch) and one.request_id == name]
    return dispatch.attempt_id


def small(bench, name, n_tokens=40, tenant="other"):
    return bench(events.Arrived(request=spec(name, name[-1] * n_tokens, tenant=tenant)))


def computed(bench, name):
    return bench(events.FirstToken(attempt_id=attempt_of(bench, name)))


@pytest.mark.parametrize(("n", "wait_ms"), [(3, 25.0), (1, 900.0)], ids=["others wait", "nobody waits"])
def test_a_light_tenant_is_reckoned_to_wait_for_half_a_step_of_those_who_yield(n, wait_ms):
    """Of the 900 ms of the prompt under way, where its own would be computed first: a step has 50 tokens of it."""
    bench = flooded(n)

    def reckoned_ms(tenant):
        return bench.preview("p", "p" * 40, tenant=tenant).candidates[0].wait_ms

    assert reckoned_ms("other") == pytest.approx(wait_ms, rel=0.02)
    assert reckoned_ms("flood") == pytest.approx(900.0 * n, rel=0.02)


def test_a_light_tenant_may_have_three_times_as_much_under_way_while_others_wait():
    bench = flooded()
    for number in range(8):
        small(bench, f"o{number}", 100)
    assert bench.dispatched() == ["flood0", "o0", "o1", "o2", "o3", "o4", "o5"]


def crowded(prompt):
    """A flooder that has credit, and whose next prompt has no room; "other" has saved quanta."""
    config = msgspec.structs.replace(CONFIG, quantum_s=0.1)
    bench = Bench("a", config=config, limits=replace(LIMITS, max_num_seqs=64))
    bench(events.TenantStands(tenant="flood", weight=10.0, is_batch=False))
    for number in range(20):  # rounds of quanta, of which "other" wants none
        bench.run(f"busy{number}", "x" * 90, tenant="busy")
    for number in range(9):
        bench.arrive(f"flood{number}", f"{number}{prompt}", tenant="flood")
    return bench


def owed_ms(bench):
    return -bench.machine.standings(["other"])["other"].credit_ms


def test_a_light_tenant_starts_until_it_owes_a_quantum_where_those_with_credit_cannot():
    bench, owed = crowded("x" * 90), []
    while True:
        small(bench, f"o{len(owed)}", 30)
        if bench.dispatched()[-1] != f"o{len(owed)}":
            break
        computed(bench, f"o{len(owed)}")
        owed.append(owed_ms(bench))
    assert bench.machine.standings(["flood"])["flood"].credit_ms > 0
    assert owed[0] < 0
    assert owed[-2] < 100 <= owed[-1]


def test_beside_long_prompts_a_light_tenant_starts_whatever_it_owes():
    bench = crowded(LONG)
    for number in range(9):
        small(bench, f"o{number}", 30)
        assert bench.dispatched()[-1] == f"o{number}"
        computed(bench, f"o{number}")
    assert owed_ms(bench) > 100


def test_the_index_tells_how_far_a_chain_is_computed():
    bench = flooded(1)
    bench(stored("a", "0" + LONG[:399]))
    assert bench.machine.cached_blocks("m", keys("0" + LONG))["a"] == 225
    assert bench.machine.residency("m", keys("0" + LONG))["a"] == 100

"""Reports: each number by hand, and tables in which nobody has to search for the best."""

from dataclasses import replace

import msgspec
import pytest

from preble.daemon.ids import GpuId, RequestId, TenantName
from preble.daemon.sched.types import TimeModel
from preble.daemon.sim.comparison import compare, shown
from preble.daemon.sim.report import Report, Setting, summarise
from preble.daemon.sim.types import Outcome

SETTING = Setting(
    workload="tool", policy="e2", fairness="d2lpm", gpus=2, rate=3.0, seed=1, fit="a6000", arrivals="poisson"
)
MODEL = TimeModel(prefill_base_ms=10, prefill_ms_per_token=1, decode_base_ms=6, decode_ms_per_sequence=1)

SERVED = Outcome(
    request_id=RequestId("r0"),
    tenant=TenantName("acme"),
    gpu=GpuId("gpu0"),
    arrived_s=1.0,
    dispatched_s=1.5,
    first_token_s=2.0,
    ended_s=4.0,
    prompt_tokens=100,
    predicted_tokens=60,
    cached_tokens=40,
    output_tokens=11,
)
REFUSED = replace(
    SERVED,
    gpu=None,
    dispatched_s=None,
    first_token_s=None,
    ended_s=1.0,
    cached_tokens=0,
    output_tokens=0,
    complete=False,
)


def run_of(*outcomes, setting=SETTING, oracle=0.9):
    return summarise(setting, outcomes, MODEL, oracle)


def with_(**changes):
    return msgspec.structs.replace(SETTING, **changes)


def test_times_are_from_arrival_and_hits_are_of_all_prompt_tokens():
    slow = replace(SERVED, arrived_s=2.0, first_token_s=5.0, ended_s=10.0, prompt_tokens=300, cached_tokens=0)
    run = run_of(SERVED, slow)
    assert (run.mean_latency_s, run.p50_latency_s) == (5.5, 5.5)
    assert run.p99_latency_s == pytest.approx(3 + 0.99 * 5)
    assert (run.mean_ttft_s, run.p50_ttft_s) == (2.0, 2.0)
    assert run.p99_ttft_s == pytest.approx(1 + 0.99 * 2)
    assert run.mean_tpot_s == pytest.approx((2.0 + 5.0) / 2 / 10)
    assert (run.hit_ratio, run.predicted_hit_ratio, run.oracle_hit_ratio) == (40 / 400, 120 / 400, 0.9)
    assert (run.duration_s, run.throughput) == (9.0, 2 / 9)


def test_refused_requests_count_as_such_and_in_no_latency():
    run = run_of(SERVED, REFUSED, REFUSED)
    assert (run.requests, run.refused, run.mean_latency_s, run.hit_ratio) == (3, 2, 3.0, 0.4)
    assert (run.tenants["acme"].requests, run.tenants["acme"].refused) == (3, 2)


def test_a_request_that_failed_on_a_gpu_was_not_served():
    run = run_of(SERVED, replace(SERVED, ended_s=50.0, complete=False))
    assert (run.refused, run.mean_latency_s, run.throughput) == (1, 3.0, 1 / 49)


def test_nothing_served_means_unknown_and_not_zero():
    run = run_of(REFUSED)
    assert {run.mean_latency_s, run.p99_latency_s, run.p99_ttft_s, run.mean_tpot_s, run.hit_ratio} == {None}
    assert run.throughput is None
    assert run_of().requests == 0


def test_answers_of_one_token_have_no_time_between_tokens():
    assert run_of(replace(SERVED, output_tokens=1)).mean_tpot_s is None
    assert run_of(SERVED, replace(SERVED, output_tokens=1)).mean_tpot_s == pytest.approx(0.2)


def test_gpu_time_is_the_missed_prompt_and_a_share_of_the_steps_that_decode():
    prefill_s, alone_s, shared_s = (10 + 60) / 1000, 10 * (6 + 1) / 1000, 10 * (6 / 2 + 1) / 1000
    assert run_of(SERVED).tenants["acme"].gpu_s == pytest.approx(prefill_s + alone_s)
    other = replace(SERVED, tenant=TenantName("other"))
    both = run_of(SERVED, other, REFUSED).tenants
    assert both["acme"].gpu_s == both["other"].gpu_s == pytest.approx(prefill_s + shared_s)
    elsewhere = run_of(SERVED, replace(other, gpu=GpuId("gpu1"))).tenants
    assert elsewhere["acme"].gpu_s == pytest.approx(prefill_s + alone_s)


def test_gpu_time_counts_what_was_cached_as_tenants_are_charged_for_it():
    plain, charged = (
        summarise(SETTING, [SERVED], MODEL, 0.9, cached_charge_ratio=ratio).tenants["acme"].gpu_s for ratio in (0, 0.1)
    )
    cached_ms = 0.1 * MODEL.prefill_ms_per_token * SERVED.cached_tokens
    assert charged - plain == pytest.approx(cached_ms / 1000)


def test_time_in_which_nothing_decodes_does_not_thin_out_the_batch():
    later = replace(SERVED, arrived_s=100.0, first_token_s=101.0, ended_s=103.0)
    twice = run_of(SERVED, SERVED, later, later).tenants["acme"]
    assert twice.gpu_s == pytest.approx(4 * (70 + 10 * 4) / 1000)


def test_tenants_have_their_own_numbers():
    slow = replace(SERVED, tenant=TenantName("slow"), first_token_s=3.5)
    tenants = run_of(slow, SERVED).tenants
    assert list(tenants) == ["acme", "slow"]
    assert (tenants["acme"].p99_ttft_s, tenants["slow"].p99_ttft_s) == (1.0, 2.5)


def test_the_json_has_what_the_contract_promises():
    written = msgspec.json.decode(msgspec.json.encode(Report(runs=(run_of(SERVED),))))
    (run,) = written["runs"]
    assert run.keys() >= {"workload", "policy", "fairness", "gpus", "rate", "seed", "requests", "hit_ratio", "tenants"}
    assert run.keys() >= {"mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s"}
    assert run["tenants"]["acme"].keys() >= {"p99_ttft_s", "gpu_s", "requests"}


def latencies(*values, **changes):
    """A run for each policy and seed, of one request that took so long."""
    return [
        run_of(replace(SERVED, ended_s=1.0 + value), setting=with_(policy=policy, seed=seed, **changes))
        for policy, *of_seeds in values
        for seed, value in enumerate(of_seeds)
    ]


def row(comparison, measure):
    return [cell.split() for cell in next(row for row in comparison.rows if row[1] == measure)[2:]]


def test_policies_stand_side_by_side_and_the_best_is_marked():
    (comparison,) = compare(latencies(("e2", 2.0), ("round_robin", 7.0), ("least_loaded", 3.0)))
    assert [name.strip() for name in comparison.columns] == ["req/s", "measure", "e2", "round_robin", "least_loaded"]
    assert row(comparison, "mean latency s") == [["2.00", "*"], ["7.00"], ["3.00"]]
    assert row(comparison, "served req/s") == [["0.500", "*"], ["0.143"], ["0.333"]]
    assert "no policy can hit more than 90.0 %" in comparison.title


def test_what_looks_alike_is_equally_good_and_if_all_do_none_is_best():
    (comparison,) = compare(latencies(("a", 2.001), ("b", 2.002), ("c", 3.0)))
    assert row(comparison, "mean latency s") == [["2.00", "*"], ["2.00", "*"], ["3.00"]]
    assert row(comparison, "hit %") == [["40.0"], ["40.0"], ["40.0"]]


def test_more_hits_are_better():
    runs = [
        run_of(replace(SERVED, cached_tokens=cached), setting=with_(policy=policy))
        for policy, cached in (("e2", 80), ("round_robin", 20))
    ]
    (comparison,) = compare(runs)
    assert row(comparison, "hit %") == [["80.0", "*"], ["20.0"]]


def test_seeds_are_shown_by_their_mean_and_rates_below_each_other():
    runs = latencies(("e2", 2.0, 4.0), ("rr", 5.0, 6.0)) + latencies(("e2", 20.0), ("rr", 10.0), rate=9.0)
    (comparison,) = compare(runs)
    assert "mean of 2 seeds" in comparison.title
    of_latency = [row for row in comparison.rows if row[1] == "mean latency s"]
    assert [row[0] for row in of_latency] == ["3", "9"]
    assert [cell.split()[0] for cell in of_latency[0][2:]] == ["3.00", "5.50"]
    assert [cell.split() for cell in of_latency[1][2:]] == [["20.0"], ["10.0", "*"]]


def test_what_is_not_known_is_never_the_best():
    runs = [run_of(REFUSED), run_of(SERVED, setting=with_(policy="rr"))]
    (comparison,) = compare(runs)
    assert row(comparison, "mean latency s") == [["-"], ["3.00", "*"]]
    assert row(comparison, "refused") == [["1"], ["0", "*"]]


def test_refusals_are_not_mentioned_where_there_are_none():
    (comparison,) = compare([run_of(SERVED)])
    assert "refused" not in [row[1] for row in comparison.rows]


def test_several_tenants_have_a_table_of_their_own():
    slow = replace(SERVED, tenant=TenantName("slow"), first_token_s=3.5)
    _, fairness, tenants = compare([run_of(SERVED, slow), run_of(SERVED, setting=with_(policy="rr"))])
    assert fairness.title == "fairness between tenants"
    assert row(fairness, "Jain's index") == [["-"], ["-"]]  # nobody waited
    assert tenants.title.startswith("p99 TTFT in s")
    assert row(tenants, "slow") == [["2.50", "*"], ["-"]]


def test_fairness_is_part_of_a_policys_name_if_it_is_not_the_usual():
    (comparison,) = compare([run_of(SERVED, setting=with_(fairness=fair)) for fair in ("d2lpm", "vtc")])
    assert [name.strip() for name in comparison.columns[2:]] == ["e2", "e2/vtc"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (1.234, "1.23"),
        (99.99, "100"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert shown(value) == text

"""The metrics page: names as Prometheus wants them, the values of what happened, and no series without bound."""

import itertools

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from tests.core import MODEL, Bench

from preble.daemon.config import PricesConfig
from preble.daemon.flow.call import Call, Settled
from preble.daemon.flow.settle import Bookkeeper
from preble.daemon.ids import KeyId, RequestId, TenantName
from preble.daemon.obs.metrics import GpuGauge, Metrics
from preble.daemon.sched.returns import ReturnCounts
from preble.daemon.sched.types import Mode
from preble.daemon.tenancy.ledger import Status
from preble.daemon.tenancy.prices import Prices
from preble.daemon.tenancy.standing import Standing

UNITS = ("_seconds", "_tokens", "_ratio", "_blocks", "_bytes")
COUNTED_THINGS = (
    "_requests",
    "_decisions",
    "_mismatches",
    "_running",
    "_waiting",
    "_up",
    "_pins",
    "_returns",
    "_evictions",
)
LABELS = {"model", "tenant", "gpu", "mode", "status", "found", "hit", "kept", "limit"}


def gauge(gpu="cpu0", **changes):
    values = {"running": 2, "waiting": 3, "kv_used_ratio": 0.25, "hit_ratio": 0.5, "load_seconds": 1.5}
    values |= {"prefill_error_ratio": 0.07, "decode_error_ratio": 0.02}
    return GpuGauge(gpu=gpu, model="m", up=True, indexed_blocks=7, unplaced_blocks=3, **{**values, **changes})


def standing(**changes):
    values = {"weight": 3.0, "is_batch": False, "waiting": 4, "running": 2, "credit_ms": None, "served_ms": {}}
    return Standing(**{**values, **changes})


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def books(metrics):
    return Bookkeeper(
        record_usage=lambda _: None, record_explanation=lambda _: None, metrics=metrics, prices=Prices(PricesConfig())
    )


def settled(*, request_id="r1", tenant="acme", gpu="cpu0", mode=Mode.EXPLOIT, status=Status.FINISHED, **changes):
    async def encode():
        raise AssertionError

    call = Call(
        request_id=RequestId(request_id),
        tenant=TenantName(tenant),
        key_id=KeyId("k"),
        path="/v1/completions",
        model=MODEL,
        body=b"{}",
        stream=True,
        hide_usage=False,
        hide_cache=False,
        encode=encode,
        asks_length=True,
        shortened=lambda _: b"{}",
        engine_ids=(),
        received_s=0.0,
    )
    placed = Bench(gpu).arrive(request_id, "x" * 100)
    decision = replace(placed, mode=mode, cached_tokens=64)
    values = {
        "decision": decision,
        "http_status": 200,
        "limit": None,
        "error_code": None,
        "error": None,
        "received_at_s": 0.0,
        "attempts": 1,
        "prompt_tokens": 100,
        "cached_tokens": 48,
        "output_tokens": 5,
        "gpu_ms": 60.0,
        "queue_ms": 20.0,
        "ttft_ms": 300.0,
        "latency_ms": 700.0,
    }
    return Settled(call=call, status=status, **{**values, **changes})


def families(metrics):
    page, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def samples(metrics):
    """Every value by its name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(metrics).values()
        for sample in family.samples
        if not sample.name.endswith(("_created", "_bucket"))
    }


def value(metrics, name, **labels):
    return samples(metrics).get((f"preble_{name}", *sorted(labels.items())))


# --- names ---


@pytest.fixture
def page(metrics, books):
    """All families, each with a value."""
    books.settle(settled(prompt_tokens=99, limit="concurrent_requests"))
    metrics.observe_decision(0.001)
    metrics.auth_failure()
    metrics.track_gpus(lambda: [gauge()])
    metrics.track_tenants(lambda: {TenantName("acme"): standing(credit_ms=-250.0), TenantName("zoo"): standing()})
    metrics.track_fairness(lambda: (0.75, 1500.0))
    metrics.template_used("acme", 64, 64)
    metrics.template_evicted("acme")
    metrics.track_pins(lambda: [("acme", True)])
    metrics.track_returns(lambda: [("m", ReturnCounts(expected=2, returned=5, found=4, expired=1))])
    return {name: family for name, family in families(metrics).items() if not name.endswith("_created")}


def test_every_family_is_ours_says_what_it_is_and_has_a_value(page):
    for name, family in page.items():
        assert name.startswith("preble_")
        assert name.islower()
        assert family.documentation.endswith(".")
        assert family.samples


def test_counters_end_in_total_and_nothing_else_does(page):
    for family in page.values():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert sample.name.endswith("_total") == (family.type == "counter")


def test_names_end_in_their_base_unit_or_in_what_they_count(page):
    for name, family in page.items():
        assert name.endswith(UNITS + COUNTED_THINGS), name
        if family.type == "histogram":
            assert name.endswith("_seconds"), name
    assert not [name for name in page if "_ms" in name or "percent" in name]


# --- values ---


def test_refusals_are_counted_by_the_limit_and_whose_it_is(metrics, books):
    for name, limit in (("r1", "requests_per_minute"), ("r2", "requests_per_minute"), ("r3", None)):
        books.settle(settled(request_id=name, status=Status.REFUSED, decision=None, limit=limit))
    assert value(metrics, "limited_requests_total", tenant="acme", limit="requests_per_minute") == 2
    assert sum(one for key, one in samples(metrics).items() if key[0] == "preble_limited_requests_total") == 2


def test_a_finished_request_is_on_the_page_in_base_units(metrics, books):
    books.settle(settled())
    by_tenant = {"model": "m", "tenant": "acme"}
    by_gpu = {"model": "m", "gpu": "cpu0"}
    assert value(metrics, "requests_total", **by_tenant, status="finished") == 1
    assert value(metrics, "decisions_total", **by_gpu, mode="exploit") == 1
    assert value(metrics, "prompt_tokens_total", **by_tenant) == 100
    assert value(metrics, "cached_prompt_tokens_total", **by_tenant) == 48
    assert value(metrics, "predicted_cached_prompt_tokens_total", **by_tenant) == 64
    assert value(metrics, "output_tokens_total", **by_tenant) == 5
    assert value(metrics, "mispredicted_cached_tokens_total", **by_gpu) == 16
    assert value(metrics, "time_to_first_token_seconds_sum", **by_gpu) == pytest.approx(0.3)
    assert value(metrics, "request_latency_seconds_sum", **by_gpu) == pytest.approx(0.7)
    assert value(metrics, "queue_wait_seconds_sum", **by_gpu) == pytest.approx(0.02)
    assert value(metrics, "prompt_length_mismatches_total", model="m") is None


def test_a_second_request_is_added_to_the_first(metrics, books):
    books.settle(settled())
    books.settle(settled(request_id="r2", cached_tokens=80))
    assert value(metrics, "requests_total", model="m", tenant="acme", status="finished") == 2
    assert value(metrics, "mispredicted_cached_tokens_total", model="m", gpu="cpu0") == 32
    assert value(metrics, "request_latency_seconds_count", model="m", gpu="cpu0") == 2


def test_a_request_that_was_never_placed_counts_for_its_tenant_and_for_no_gpu(metrics, books):
    before = samples(metrics)
    books.settle(settled(decision=None, status=Status.REFUSED, cached_tokens=None, queue_ms=None, ttft_ms=None))
    new = {key: each for key, each in samples(metrics).items() if key not in before}
    assert new == {("preble_requests_total", ("model", "m"), ("status", "refused"), ("tenant", "acme")): 1}


def test_what_is_not_known_is_not_counted_as_zero(metrics, books):
    books.settle(settled(cached_tokens=None, ttft_ms=None, queue_ms=None, status=Status.CANCELLED))
    names = {name for name, *_ in samples(metrics)}
    assert "preble_request_latency_seconds_count" in names
    assert not names & {
        "preble_cached_prompt_tokens_total",
        "preble_predicted_cached_prompt_tokens_total",
        "preble_mispredicted_cached_tokens_total",
        "preble_time_to_first_token_seconds_count",
        "preble_queue_wait_seconds_count",
    }


def test_a_prompt_that_the_engine_counts_otherwise_is_noticed(metrics, books):
    books.settle(settled(prompt_tokens=101))
    assert value(metrics, "prompt_length_mismatches_total", model="m") == 1


def test_decisions_and_strangers_are_counted(metrics):
    metrics.observe_decision(0.0004)
    metrics.auth_failure()
    assert value(metrics, "decision_seconds_sum") == pytest.approx(0.0004)
    assert value(metrics, "unauthenticated_requests_total") == 1


def test_engines_are_shown_as_they_are_at_the_scrape(metrics):
    rows = [gauge()]
    metrics.track_gpus(lambda: rows)
    labels = {"model": "m", "gpu": "cpu0"}
    shown = ("engine_up", "requests_running", "requests_waiting", "kv_cache_used_ratio", "prefix_hit_ratio")
    assert [value(metrics, name, **labels) for name in shown] == [1, 2, 3, 0.25, 0.5]
    assert [value(metrics, name, **labels) for name in ("load_seconds", "indexed_blocks")] == [1.5, 7]
    assert value(metrics, "unplaced_blocks_total", **labels) == 3
    rows[0] = gauge(running=9, kv_used_ratio=None, hit_ratio=None)
    assert value(metrics, "requests_running", **labels) == 9
    assert value(metrics, "kv_cache_used_ratio", **labels) is None
    rows.clear()
    assert value(metrics, "engine_up", **labels) is None


def test_two_daemons_in_one_process_do_not_share_their_numbers(metrics, books):
    books.settle(settled())
    assert value(Metrics(), "requests_total", model="m", tenant="acme", status="finished") is None


# --- how many series ---


def test_series_are_told_apart_by_few_things_only(page):
    for family in page.values():
        for sample in family.samples:
            assert sample.labels.keys() <= LABELS | {"le"}


def test_requests_make_no_series_of_their_own(metrics, books):
    every = list(itertools.product(("acme", "zoo"), ("cpu0", "cpu1"), Mode, Status))

    def settle(prefix):
        for number, (tenant, gpu, mode, status) in enumerate(every):
            books.settle(
                settled(request_id=f"{prefix}{number}", tenant=tenant, gpu=gpu, mode=mode, status=status, error=prefix)
            )
        return len(samples(metrics))

    n_series = settle("a")
    assert settle("b") == n_series
    by_tenant, by_gpu = 2 * (len(Status) + 5), 2 * (len(Mode) + 1 + 3 * 2)
    assert n_series == by_tenant + by_gpu + 1 + 2  # and strangers, and the time of decisions


def test_returns_from_tools_are_counted_by_whether_their_prefix_was_found(page):
    samples = {sample.labels["found"]: sample.value for sample in page["preble_returns"].samples}
    assert samples == {"yes": 4, "no": 1}


def test_returns_from_tools_are_awaited_or_given_up(page):
    assert [sample.value for sample in page["preble_expected_returns"].samples] == [2]
    assert [sample.value for sample in page["preble_expired_returns"].samples] == [1]


def test_tenants_tell_how_they_stand_and_credit_only_where_there_is_such_a_thing(page):
    told = {
        name: {sample.labels["tenant"]: sample.value for sample in page[f"preble_tenant_{name}"].samples}
        for name in ("weight_ratio", "credit_seconds", "requests_waiting", "requests_running")
    }
    assert told["credit_seconds"] == {"acme": -0.25}
    assert told["weight_ratio"] == {"acme": 3, "zoo": 3}
    assert told["requests_waiting"] == {"acme": 4, "zoo": 4}
    assert told["requests_running"] == {"acme": 2, "zoo": 2}


def test_fairness_is_told_while_somebody_waits(page):
    assert [sample.value for sample in page["preble_fairness_jain_ratio"].samples] == [0.75]
    assert [sample.value for sample in page["preble_service_gap_seconds"].samples] == [1.5]
    nobody = Metrics()
    nobody.track_fairness(lambda: (None, None))
    assert not {"preble_fairness_jain_ratio", "preble_service_gap_seconds"} & families(nobody).keys()


def test_tenants_are_told_what_gpu_time_they_caused(page):
    (service,) = [one for one in page["preble_tenant_service_seconds"].samples if one.name.endswith("_total")]
    assert (service.labels["tenant"], service.value) == ("acme", 0.06)

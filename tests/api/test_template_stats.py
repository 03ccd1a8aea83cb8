"""What templates have saved: counted once, told to those whom it concerns."""

from dataclasses import replace
from time import time

import numpy as np
import pytest
from tests.admin_app import usage
from tests.api.calling import Caller
from tests.core import BLOCK, HASHER, MODEL
from tests.obs.test_metrics import settled

from preble.daemon.config import PricesConfig
from preble.daemon.flow.events import BlocksRemoved, KvReported
from preble.daemon.flow.recognition import Recogniser
from preble.daemon.flow.settle import Bookkeeper
from preble.daemon.obs.metrics import Metrics
from preble.daemon.sched.blocks import root_key
from preble.daemon.sched.types import TimeModel
from preble.daemon.templates.using import Named
from preble.daemon.tenancy.prices import Prices

TENANTS, OPERATORS = "/v1/templates", "/admin/v1/templates"
LONG = "abcdefghij" * 20
TOKENS = len(LONG) // BLOCK * BLOCK


def used(number, tenant="default", template_id=1, cached=TOKENS, ttft_ms=None, **changes):
    """A row of the ledger that names a template."""
    named = {"template_id": template_id, "template": "a", "template_version": 1, "template_tokens": TOKENS}
    at_s = time() - 60 + number
    return usage(
        number, tenant, at_s, prompt_tokens=TOKENS + 9, cached_tokens=cached, ttft_ms=ttft_ms, **{**named, **changes}
    )


@pytest.fixture(autouse=True)
async def registered(operator, tenant):
    assert (await tenant.post(TENANTS, {"name": "a", "text": LONG})).status_code == 201
    assert (await operator.post(OPERATORS, {"name": "o", "text": LONG})).status_code == 201


@pytest.fixture
async def other(operator, anyone):
    await operator.post("/admin/v1/tenants", {"name": "other", "isolation": "shared"})
    return Caller(anyone, (await operator.post("/admin/v1/keys", {"tenant": "other"})).json()["key"])


async def recorded(admin, *rows):
    for row in rows:
        admin.ledger.record(row)
    await admin.ledger.close()


async def stats(caller, prefix="/v1", **query):
    return (await caller.get(f"{prefix}/template-stats", **query)).json()["rows"]


async def test_what_was_found_cached_is_summed(admin, tenant, operator):
    await recorded(
        admin,
        used(1, cached=0, ttft_ms=90.0, saved_ms=0.0),
        used(2, cached=TOKENS + 4, ttft_ms=10.0, saved_ms=80.5),
        used(3, cached=TOKENS, ttft_ms=20.0, saved_ms=79.5),
        used(4, cached=None, ttft_ms=70.0),
        usage(5, "default", time()),
    )
    [row] = await stats(tenant)
    assert (row["name"], row["version"], row["owner"], row["requests"]) == ("a", 1, "default", 4)
    assert (row["hit_ratio"], row["tokens_saved"], row["gpu_ms_saved"]) == (2 / 3, 2 * TOKENS, 160.0)
    assert (row["ttft_hit_ms"], row["ttft_miss_ms"]) == (15.0, 90.0)
    assert (row["warm_on"], row["pinned"], row["evictions"]) == ([], False, 0)
    assert row["last_used_at"] is not None
    rows = (await operator.get("/admin/v1/usage", tenant="default")).json()["rows"]
    assert {each["template"] for each in rows} == {"a", None}


async def test_where_a_template_is_warm_is_what_engines_report(admin, tenant):
    await tenant.post(f"{TENANTS}/a/warm", {})
    assert await stats(tenant) == []
    await recorded(admin, used(1))
    [row] = await stats(tenant)
    assert row["warm_on"] == [admin.engines.sent[0][0]]


async def test_prefixes_have_the_name_of_the_template_that_ends_in_them(tenant, operator):
    async def named():
        return [row["template"] for row in (await operator.get("/admin/v1/prefixes", model=MODEL)).json()["rows"]]

    assert await named() == []
    assert (await tenant.post(f"{TENANTS}/a/warm", {})).status_code == 200
    assert await named() == ["a@1"]
    await tenant.delete(f"{TENANTS}/a")
    assert await named() == [None]


async def test_evictions_of_what_is_not_pinned_are_counted_and_shown(admin, tenant, operator):
    await tenant.post(f"{TENANTS}/a/warm", {})
    [(gpu, sent)] = admin.engines.sent
    chain = HASHER.chain(root_key(MODEL, salt=sent["cache_salt"]), np.asarray(sent["prompt"], dtype=np.uint32))
    evicted = KvReported(gpu=gpu, epoch=1, changes=(BlocksRemoved(keys=tuple(chain[-1:])),))
    admin.runtime.post(evicted)
    admin.runtime.post(evicted)
    await admin.evictions.close()
    [row] = await stats(tenant)
    assert (row["name"], row["version"], row["requests"], row["evictions"]) == ("a", 1, 0, 1)
    assert (row["warm_on"], row["pinned"], row["last_used_at"]) == ([], False, None)
    assert await stats(operator, "/admin/v1", tenant="default") == [row]
    assert 'preble_template_evictions_total{tenant="default"} 1.0' in admin.metrics.render()[0].decode()


async def test_each_tenant_learns_of_its_own_use_and_the_operator_of_all(admin, tenant, operator, other):
    await recorded(
        admin,
        used(1, "default", template_id=2, template="o"),
        used(2, "other", template_id=2, template="o", saved_ms=5.0),
        used(3, "other", template_id=2, template="o", cached=0),
        used(4, "default"),
    )
    assert {(row["name"], row["requests"], row["hit_ratio"]) for row in await stats(tenant)} == {
        ("o", 1, 1.0),
        ("a", 1, 1.0),
    }
    [hidden] = await stats(other)
    assert (hidden["requests"], hidden["hit_ratio"], hidden["tokens_saved"]) == (2, None, None)
    assert (hidden["gpu_ms_saved"], hidden["ttft_hit_ms"], hidden["warm_on"]) == (None, None, [])
    assert hidden["evictions"] is None
    assert {(row["name"], row["requests"]) for row in await stats(operator, "/admin/v1")} == {("o", 3), ("a", 1)}
    [row] = await stats(operator, "/admin/v1", tenant="other")
    assert (row["requests"], row["tokens_saved"], row["gpu_ms_saved"]) == (2, TOKENS, 5.0)
    assert [row["name"] for row in await stats(operator, "/admin/v1", name="o", limit=1)] == ["o"]


async def test_what_is_deleted_is_not_told_of(admin, tenant):
    await recorded(admin, used(1))
    assert len(await stats(tenant)) == 1
    await tenant.delete(f"{TENANTS}/a")
    assert await stats(tenant) == []


async def test_a_request_is_counted_for_the_template_that_it_named(admin):
    metrics, recorded = Metrics(), []
    model = TimeModel(prefill_base_ms=1.0, prefill_ms_per_token=0.5, decode_ms_per_sequence=1.0)
    books = Bookkeeper(
        record_usage=recorded.append,
        record_explanation=lambda _: None,
        metrics=metrics,
        prices=Prices(PricesConfig()),
        time_model=lambda _: model,
    )
    named = Named(template_id=7, name="a", version=3, tokens=64, blocks=4)
    for number, cached in enumerate((96, 0)):
        one = settled(request_id=f"r{number}", prompt_tokens=100, cached_tokens=cached)
        books.settle(replace(one, call=replace(one.call, template=named)))
    books.settle(settled(request_id="plain"))
    told = [(row.template_id, row.template, row.template_version, row.template_tokens) for row in recorded]
    assert told == [(7, "a", 3, 64)] * 2 + [(None,) * 4]
    assert [row.saved_ms for row in recorded] == [32.0, 0.0, None]
    page = metrics.render()[0].decode()
    for hit in ("yes", "no"):
        assert f'preble_template_requests_total{{hit="{hit}",tenant="acme"}} 1.0' in page
    assert 'preble_template_saved_tokens_total{tenant="acme"} 64.0' in page


async def test_a_request_that_begins_with_a_template_is_booked_as_its_use_and_one_that_names_another_is_not():
    recorded = []
    named = Named(template_id=7, name="a", version=3, tokens=64, blocks=4)
    books = Bookkeeper(
        record_usage=recorded.append,
        record_explanation=lambda _: None,
        metrics=Metrics(),
        prices=Prices(PricesConfig()),
        recognised=lambda _: named,
    )
    heard = []
    books.listen(lambda settled: heard.append(settled.call.template))
    books.settle(settled())
    one, other = settled(request_id="r2"), replace(named, template_id=8)
    books.settle(replace(one, call=replace(one.call, template=other)))
    assert [row.template_id for row in recorded] == [7, 8]
    assert heard == [named, other]


async def test_what_was_registered_before_is_recognised_after_a_restart(admin):
    desk = admin.templates
    again = Recogniser(desk.store, desk._encoders)
    salt, template = admin.salts.scope("default", None).salt, desk.store.directory.by_id(1)
    prefix = await desk.prefix(template, template.latest, MODEL)
    one = settled(tenant="default", block_keys=desk.chain(MODEL, salt, prefix))
    one = replace(one, call=replace(one.call, salt=salt))
    assert again.of(one) is None
    await again.recall()
    assert again.of(one) == desk.recogniser.of(one)
    assert (again.of(one).name, again.of(one).tokens) == ("a", TOKENS)


async def test_pins_are_counted_by_whether_they_are_kept(admin, tenant):
    metrics = Metrics()
    metrics.track_pins(lambda: [("acme", True), ("acme", True), ("zoo", False)])
    page = metrics.render()[0].decode()
    assert 'preble_template_pins{kept="yes",tenant="acme"} 2.0' in page
    assert 'preble_template_pins{kept="no",tenant="zoo"} 1.0' in page

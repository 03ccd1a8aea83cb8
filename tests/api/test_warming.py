"""Templates that are warmed over HTTP: where, for whom, and what is told of it."""

import pytest
from tests.api.calling import Caller, problem
from tests.core import BLOCK, MODEL

from preble.daemon.flow.events import EngineDown
from preble.daemon.ids import GpuId

TENANTS, OPERATORS = "/v1/templates", "/admin/v1/templates"
LONG = "abcdefghij" * 20


@pytest.fixture(autouse=True)
async def registered(tenant):
    made = await tenant.post(TENANTS, {"name": "a", "text": f"{LONG}{{{{x}}}}"})
    assert made.status_code == 201


@pytest.fixture
async def shared(operator, anyone):
    """A tenant that shares its prefixes, and has a template."""
    await operator.post("/admin/v1/tenants", {"name": "s", "isolation": "shared"})
    made = await operator.post("/admin/v1/keys", {"tenant": "s"})
    caller = Caller(anyone, made.json()["key"])
    await caller.post(TENANTS, {"name": "a", "text": LONG})
    return caller


async def warm(caller, path=TENANTS, name="a", query=None, **body):
    return await caller.post(f"{path}/{name}/warm", body, **(query or {}))


async def test_it_is_warm_when_it_is_answered(admin, tenant):
    done = (await warm(tenant)).json()
    assert (done["name"], done["version"], done["model"], done["tenant"]) == ("a", 1, MODEL, "default")
    [row] = done["rows"]
    assert (row["state"], row["cached_tokens"], row["problem"]) == ("warm", done["cacheable_tokens"], None)
    assert done["cacheable_tokens"] == len(LONG) // BLOCK * BLOCK
    [(gpu, body)] = admin.engines.sent
    assert (gpu, body["max_tokens"], len(body["prompt"])) == (row["gpu"], 1, done["cacheable_tokens"] + 1)


async def test_the_work_is_its_owners_and_explained(admin, tenant, operator):
    [row] = (await warm(tenant)).json()["rows"]
    await admin.ledger.close()
    await admin.decisions.close()
    [used] = (await operator.get("/admin/v1/usage", tenant="default")).json()["rows"]
    assert (used["request_id"], used["mode"], used["output_tokens"]) == (row["request_id"], "warm", 1)
    assert used["gpu_ms"] > 0
    told = (await operator.get(f"/admin/v1/explain/{row['request_id']}")).json()
    assert (told["gpu"], told["mode"]) == (row["gpu"], "warm")
    [change] = (await operator.get("/admin/v1/audit", tenant="default", limit=1)).json()["rows"]
    assert (change["action"], change["target"], change["after"]["gpus"]) == ("template.warm", "a", [row["gpu"]])


async def test_it_goes_where_it_costs_least_and_to_all_if_asked(admin, tenant):
    [first] = (await warm(tenant)).json()["rows"]
    dry = (await warm(tenant, gpus="all", query={"dry_run": True})).json()["rows"]
    assert [(row["gpu"] == first["gpu"], row["state"]) for row in dry] == [(True, "warm"), (False, "cold")]
    assert dry[0]["cost_ms"] < dry[1]["cost_ms"]
    assert len(admin.engines.sent) == 1
    done = (await warm(tenant, gpus=2)).json()["rows"]
    assert [row["state"] for row in done] == ["warm", "warm"]


async def test_caches_are_kept_apart(admin, operator, tenant):
    await operator.post(OPERATORS, {"name": "o", "text": LONG})
    refused = await warm(operator, OPERATORS, "o")
    assert (refused.status_code, problem(refused)["param"]) == (400, "tenant")
    await operator.post("/admin/v1/tenants", {"name": "other"})
    for name in ("default", "other"):
        done = await warm(operator, OPERATORS, "o", {"tenant": name})
        assert (done.status_code, done.json()["tenant"]) == (200, name)
    salts = [body["cache_salt"] for _, body in admin.engines.sent]
    assert salts == [admin.salts.scope(name, None).salt for name in ("default", "other")]
    assert salts[0] != salts[1]


async def test_who_shares_prefixes_is_not_told_what_was_there(shared):
    assert (await warm(shared, gpus="all", query={"dry_run": True})).json()["rows"] == []
    [row] = (await warm(shared)).json()["rows"]
    assert (row["state"], row["cost_ms"]) == ("warm", None)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"gpus": 3}, 400, "gpus"),
        ({"gpus": 0}, 400, "gpus"),
        ({"gpus": "some"}, 400, "gpus"),
        ({"version": 7}, 404, "template.version"),
        ({"label": "x"}, 404, "template.label"),
        ({"model": "other"}, 404, "model"),
        ({"version": 1, "label": "x"}, 400, "template.version"),
        ({"gpu": 1}, 400, "gpu"),
    ],
)
async def test_what_cannot_be_warmed_is_named(tenant, body, status, param):
    refused = await warm(tenant, **body)
    assert (refused.status_code, problem(refused)["param"]) == (status, param)


async def test_what_has_no_whole_block_cannot_be_warmed(tenant):
    await tenant.post(TENANTS, {"name": "short", "text": "a {{x}}"})
    refused = await warm(tenant, name="short")
    assert refused.status_code == 400
    assert "no whole block" in problem(refused)["message"]


async def test_an_engine_that_fails_is_told_of(admin, tenant):
    admin.engines.broken = True
    assert (await warm(tenant)).status_code == 502
    for gpu in ("gpu0", "gpu1"):
        admin.runtime.post(EngineDown(gpu=GpuId(gpu)))
    assert (await warm(tenant)).status_code == 503
    assert admin.runtime.live_requests == 0


async def test_limits_hold_for_it_too(operator, tenant):
    await operator.patch("/admin/v1/tenants/default", {"limits": {"input_tokens_per_minute": 100}})
    assert (await warm(tenant)).status_code == 429

"""Pinned templates over HTTP: kept while the daemon runs and after it was started again, within budgets."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.admin_app import open_admin_app
from tests.api.calling import Caller, problem
from tests.core import BLOCK, LIMITS, MODEL, up

from preble.daemon.flow.events import BlocksCleared, DrainChanged, EngineDown, KvReported
from preble.daemon.ids import GpuId
from preble.daemon.wire.live import TemplateKey

TENANTS, OPERATORS = "/v1/templates", "/admin/v1/templates"
LONG = "abcdefghij" * 20
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
async def registered(tenant):
    made = await tenant.post(TENANTS, {"name": "a", "text": f"{LONG}{{{{x}}}}"})
    assert made.status_code == 201


async def pin(caller, path=TENANTS, name="a", query=None, **body):
    return await caller.post(f"{path}/{name}/pin", body, **(query or {}))


async def rows(caller, path=TENANTS, name="a", **query):
    return (await caller.get(f"{path}/{name}/pins", **query)).json()["rows"]


async def states(caller, **more):
    [row] = await rows(caller, **more)
    return {place["gpu"]: place["state"] for place in row["places"]}


async def until(condition):
    """It holds before long."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.02)


def warm_on(caller, count, **more):
    async def is_so():
        return list((await states(caller, **more)).values()).count("warm") == count

    return is_so


async def test_what_is_pinned_becomes_warm_and_is_warmed_again_after_eviction_and_restart(admin, tenant, operator):
    made = await pin(tenant)
    assert made.status_code == 201, made.text
    assert (made.json()["version"], made.json()["problem"]) == (None, None)
    await until(warm_on(tenant, 1))
    [row] = await rows(tenant)
    assert (row["version"], row["evictions"], row["warm_ups"], row["model"]) == (1, 0, 1, MODEL)
    [home] = [place["gpu"] for place in row["places"] if place["is_kept"]]
    admin.runtime.post(KvReported(gpu=GpuId(home), epoch=1, changes=(BlocksCleared(),)))
    await until(warm_on(tenant, 1))
    [row] = await rows(tenant)
    assert (row["evictions"], row["warm_ups"]) == (1, 2)
    for gpu in ("gpu0", "gpu1"):
        admin.runtime.post(EngineDown(gpu=GpuId(gpu)))
    assert await states(tenant) == {}
    admin.runtime.post(up("gpu1"))
    await until(warm_on(tenant, 1))
    await admin.ledger.close()
    used = (await operator.get("/admin/v1/usage", tenant="default")).json()["rows"]
    assert [(one["tenant"], one["mode"]) for one in used] == [("default", "warm")] * 3


async def test_what_was_warm_before_it_was_pinned_is_told_to_be(tenant):
    assert (await tenant.post(f"{TENANTS}/a/warm", {"gpus": "all"})).status_code == 200
    made = (await pin(tenant)).json()
    assert {place["gpu"]: place["state"] for place in made["places"]} == {"gpu0": "warm", "gpu1": "warm"}


@asynccontextmanager
async def opened(folder):
    """A daemon on this data, and a caller with its first tenant's key."""
    async with (
        open_admin_app(folder) as opened,
        httpx.AsyncClient(transport=httpx.ASGITransport(opened.app), base_url="http://preble") as client,
    ):
        yield Caller(client, (folder / "default.key").read_text().strip())


async def test_pins_outlive_the_daemon(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    async with opened(folder) as caller:
        await caller.post(TENANTS, {"name": "a", "text": LONG})
        assert (await pin(caller, replicas=2)).status_code == 201
        [before] = await rows(caller)
    async with opened(folder) as caller:
        await until(warm_on(caller, 2))
        [after] = await rows(caller)
    kept = ("created_at", "created_by", "replicas", "reference", "model", "expires_at")
    assert [after[name] for name in kept] == [before[name] for name in kept]


async def test_pinning_again_changes_the_pin_and_trying_changes_nothing(tenant):
    dry = await pin(tenant, query={"dry_run": True})
    assert (dry.status_code, dry.json()["action"], dry.json()["before"]) == (200, "template.pin", None)
    assert await rows(tenant) == []
    assert (await pin(tenant)).status_code == 201
    again = await pin(tenant, replicas=2)
    assert (again.status_code, again.json()["replicas"], again.json()["max_replicas"]) == (200, 2, 2)
    await until(warm_on(tenant, 2))
    assert (await pin(tenant, label="latest")).status_code == 201
    assert [row["reference"] for row in await rows(tenant)] == [None, "latest"]


async def effect(caller, path=TENANTS, query=None, **body):
    """What pinning would do."""
    tried = await pin(caller, path, query={"dry_run": True, **(query or {})}, **body)
    assert tried.status_code == 200, tried.text
    return tried.json()["effect"]


async def test_pinning_says_what_it_takes_of_gpus_and_budgets_and_what_is_warm_already(admin, tenant, operator):
    """Of 1,000 blocks of a GPU 200 can be pinned."""
    whose, path = {"tenant": "default"}, OPERATORS
    blocks, budget = len(LONG) // BLOCK, "default then has"
    assert await effect(operator, path, whose) == [
        "200 tokens (50 blocks) are kept on gpu0.",
        "gpu0 computes all of it; it takes 25 % of the 200 blocks that can be pinned there, all pins together 25 %.",
        f"{budget} 200 tokens pinned, of which 200 are this; there is no limit.",
    ]
    await pin(tenant)
    await until(warm_on(tenant, 1))
    [home] = [gpu for gpu, state in (await states(tenant)).items() if state == "warm"]
    other = {"gpu0": "gpu1", "gpu1": "gpu0"}[home]
    await operator.patch("/admin/v1/tenants/default", {"limits": {"pinned_tokens": 1000}})
    told = await effect(operator, path, whose, label="latest", replicas=2)
    assert told == [
        f"200 tokens ({blocks} blocks) are kept on {home}, {other}.",
        f"{home} has all of it already; it takes 25 % of the 200 blocks that can be pinned there, "
        "all pins together 50 %.",
        f"{other} computes all of it; it takes 25 % of the 200 blocks that can be pinned there, "
        "all pins together 25 %.",
        f"{budget} 600 of 1,000 tokens pinned that it may (60 %); this is 40 % of them.",
    ]
    assert len(await rows(tenant)) == 1, "nothing was done"


async def test_pinning_what_is_pinned_counts_it_once_and_more_gpus_while_it_is_asked_for(tenant, operator):
    await pin(tenant)
    await until(warm_on(tenant, 1))
    told = await effect(operator, OPERATORS, {"tenant": "default"}, max_replicas=2)
    assert told[1].endswith("all pins together 25 %.")
    assert "up to 2 GPUs keep it" in told[2]


async def test_pinning_says_what_is_there_in_part_and_what_others_have_of_it(admin, tenant, operator):
    await tenant.post(f"{TENANTS}/a/warm", {"gpus": "all"})
    told = await effect(operator, OPERATORS, {"tenant": "default"})
    assert told[1].startswith("gpu0 has all of it already; ")
    assert told[2] == "gpu1 has all of it too, and may evict it."
    await tenant.post(TENANTS, {"name": "a", "text": f"{LONG[:100]}{'z' * 100}"})
    told = await effect(operator, OPERATORS, {"tenant": "default"})
    assert "has 100 tokens of it already, and computes 100; " in told[1]


async def test_pinning_where_nothing_takes_new_requests_says_so(admin, tenant, operator):
    for gpu in ("gpu0", "gpu1"):
        admin.runtime.post(DrainChanged(gpu=GpuId(gpu), draining=True))
    told = await effect(operator, OPERATORS, {"tenant": "default"})
    assert told[0].endswith("are kept on no GPU yet.")
    assert told[1] == "1 more wanted: no other GPU takes new requests and has room for it."


async def test_tenants_are_told_of_their_own_budget_alone(tenant):
    told = await effect(tenant, replicas=2)
    assert told[0] == "200 tokens (50 blocks) are kept on 2 GPUs."
    assert not [line for line in told if "gpu" in line]


async def test_what_is_unpinned_is_not_warmed_again(admin, tenant):
    await pin(tenant, replicas=2)
    await pin(tenant, version=1)
    await until(lambda: _all(tenant, 2))
    dry = await tenant.delete(f"{TENANTS}/a/pin", dry_run=True, all=True)
    assert (dry.status_code, len(dry.json()["before"]["pins"])) == (200, 2)
    one = await tenant.delete(f"{TENANTS}/a/pin", version=1)
    assert [row["reference"] for row in one.json()["rows"]] == ["1"]
    assert len(await rows(tenant)) == 1
    assert (await tenant.delete(f"{TENANTS}/a/pin", all=True)).status_code == 200
    assert (await tenant.delete(f"{TENANTS}/a/pin", all=True)).status_code == 404
    sent = len(admin.engines.sent)
    for gpu in ("gpu0", "gpu1"):
        admin.runtime.post(KvReported(gpu=GpuId(gpu), epoch=1, changes=(BlocksCleared(),)))
    await asyncio.sleep(0.5)
    assert len(admin.engines.sent) == sent


async def test_what_was_pinned_without_a_version_goes_alone(tenant):
    for which in ({}, {"version": 1}, {"label": "latest"}):
        await pin(tenant, **which)
    done = await tenant.delete(f"{TENANTS}/a/pin", model=MODEL)
    assert [row["reference"] for row in done.json()["rows"]] == [None]
    assert [row["reference"] for row in await rows(tenant)] == ["1", "latest"]
    gone = problem(await tenant.delete(f"{TENANTS}/a/pin"))
    assert gone["message"].startswith("Template 'a' is not pinned without a version or label; pinned are a@1 of ")
    other = await tenant.delete(f"{TENANTS}/a/pin", version=1, model="another")
    assert (other.status_code, len(await rows(tenant))) == (404, 2)
    both = await tenant.delete(f"{TENANTS}/a/pin", version=1, all=True)
    assert (both.status_code, problem(both)["param"]) == (400, "all")


async def _all(caller, count):
    found = [[place["state"] for place in row["places"]].count("warm") for row in await rows(caller)]
    return min(found) >= count


async def test_pins_end_with_their_template_their_time_and_their_tenant(admin, operator, tenant):
    await pin(tenant)
    await tenant.delete(f"{TENANTS}/a")
    await tenant.post(TENANTS, {"name": "a", "text": LONG})
    await until(lambda: _none(tenant))
    await pin(tenant, ttl_s=0.3)
    assert len(await rows(tenant)) == 1
    await until(lambda: _none(tenant))
    await operator.post("/admin/v1/tenants", {"name": "other"})
    await operator.post(OPERATORS, {"name": "o", "text": LONG})
    assert (await pin(operator, OPERATORS, "o", {"tenant": "other"})).status_code == 201
    assert [row["tenant"] for row in await rows(operator, path=OPERATORS, name="o")] == ["other"]
    await operator.delete("/admin/v1/tenants/other")
    await until(lambda: _none(operator, path=OPERATORS, name="o"))


async def _none(caller, **more):
    return await rows(caller, **more) == []


async def test_a_tenant_sees_only_its_own_pins(admin, operator, tenant, anyone):
    await operator.post("/admin/v1/tenants", {"name": "other"})
    await operator.post(OPERATORS, {"name": "o", "text": LONG})
    for name in ("default", "other"):
        assert (await pin(operator, OPERATORS, "o", {"tenant": name})).status_code == 201
    assert [row["tenant"] for row in await rows(tenant, name="o")] == ["default"]
    assert len(await rows(operator, path=OPERATORS, name="o")) == 2
    assert (await pin(operator, OPERATORS, "o")).status_code == 400
    await until(lambda: _sent(admin, 2))
    assert len({body["cache_salt"] for _, body in admin.engines.sent}) == 2
    key = (await operator.post("/admin/v1/keys", {"tenant": "other"})).json()["key"]
    other = Caller(anyone, key)
    assert (await other.get(f"{TENANTS}/a/pins")).status_code == 404
    assert (await other.delete(f"{TENANTS}/a/pin")).status_code == 404


async def _sent(admin, count):
    return len(admin.engines.sent) >= count


async def test_a_label_that_moves_and_a_salt_that_is_rotated_take_the_pin_with_them(admin, operator, tenant):
    await pin(tenant)
    await until(warm_on(tenant, 1))
    await tenant.post(TENANTS, {"name": "a", "text": f"other {LONG}"})
    await until(lambda: _version(tenant, 2))
    await until(warm_on(tenant, 1))
    salt = admin.engines.sent[-1][1]["cache_salt"]
    await operator.post("/admin/v1/tenants/default/rotate-salt")
    await until(lambda: _salted(admin, salt))
    await until(warm_on(tenant, 1))


async def _version(caller, number):
    return [row["version"] for row in await rows(caller)] == [number]


async def _salted(admin, salt):
    return admin.engines.sent[-1][1]["cache_salt"] != salt


async def test_budgets_refuse_with_numbers(operator, tenant):
    most = int(0.2 * LIMITS.kv_blocks)
    await tenant.post(TENANTS, {"name": "big", "text": "x" * (BLOCK * (most + 1))})
    refused = await pin(tenant, name="big")
    assert (refused.status_code, problem(refused)["code"]) == (400, "pin_budget_exceeded")
    assert f"{most + 1} blocks" in problem(refused)["message"]
    await operator.patch("/admin/v1/tenants/default", {"limits": {"pinned_tokens": 300}})
    assert (await pin(tenant)).status_code == 201
    refused = await pin(tenant, replicas=2)
    assert (refused.status_code, problem(refused)["code"]) == (409, "pin_budget_exceeded")
    assert "300 allowed, 0 pinned, 400 wanted" in problem(refused)["message"]
    refused = await pin(tenant, label="latest")
    assert "200 pinned, 200 wanted" in problem(refused)["message"]
    assert problem(await pin(tenant, replicas=2, max_replicas=1))["param"] == "max_replicas"
    await operator.patch("/admin/v1/tenants/default", {"limits": {"pinned_tokens": None}})
    assert problem(await pin(tenant, replicas=3))["param"] == "replicas"


async def test_what_a_suspended_tenant_pinned_waits(admin, operator, tenant):
    await pin(tenant)
    await until(warm_on(tenant, 1))
    await operator.patch("/admin/v1/tenants/default", {"suspended": True})
    sent = len(admin.engines.sent)
    for gpu in ("gpu0", "gpu1"):
        admin.runtime.post(KvReported(gpu=GpuId(gpu), epoch=1, changes=(BlocksCleared(),)))
    await asyncio.sleep(0.4)
    assert len(admin.engines.sent) == sent
    await operator.patch("/admin/v1/tenants/default", {"suspended": False})
    await until(lambda: _sent(admin, sent + 1))


async def test_an_engine_that_fails_is_tried_again_later(admin, tenant):
    admin.engines.broken = True
    await pin(tenant)

    async def failed():
        [row] = await rows(tenant)
        return row["problem"] is not None and row["next_try_in_s"] is not None

    await until(failed)
    admin.engines.broken = False
    await until(warm_on(tenant, 1))
    assert [row["problem"] for row in await rows(tenant)] == [None]


async def test_consoles_are_told_of_pinned_templates(admin, tenant):
    await pin(tenant)
    await until(warm_on(tenant, 1))
    [row] = admin.board.snapshot(admin.runtime._clock()).templates
    assert (row.key, row.pinned) == (TemplateKey(owner="default", name="a", version=1), True)
    assert sorted(row.states.values()) == ["cold", "warm"]
    assert (row.cacheable_tokens, row.requests_per_min, row.hit_ratio) == (len(LONG), 0.0, None)


async def test_consoles_tell_owners_and_versions_apart(admin, tenant, operator):
    """The operator's template of that name was pinned for a tenant before that had one of its own."""
    await operator.post("/admin/v1/tenants", {"name": "other"})
    await operator.post(OPERATORS, {"name": "a", "text": f"{LONG} the operator's"})
    await pin(operator, OPERATORS, query={"tenant": "other"})
    await operator.post(OPERATORS, {"name": "a", "text": f"{LONG} other's"}, tenant="other")
    await tenant.post(TENANTS, {"name": "a", "text": f"{LONG} the second"})
    for more in ({"version": 1}, {"version": 2}):
        await pin(tenant, **more)
    await pin(operator, OPERATORS, query={"tenant": "other"})
    rows = {row.key: row for row in admin.board.snapshot(admin.runtime._clock()).templates}
    named = {(key.owner, key.name, key.version) for key in rows}
    assert named == {(None, "a", 1), ("other", "a", 1), ("default", "a", 1), ("default", "a", 2)}

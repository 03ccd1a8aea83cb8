"""The operator's routes for tenants: made once, changed as they are known, and deleted without a trace of a leak."""

import pytest
from tests.api.calling import Caller, problem

from preble.daemon.ids import TenantName

TENANTS = "/admin/v1/tenants"
ACME = f"{TENANTS}/acme"


async def names(operator) -> list[str]:
    return [row["name"] for row in (await operator.get(TENANTS)).json()["rows"]]


async def changes(operator) -> list[str]:
    """What was done since the first tenant was made, latest first."""
    rows = (await operator.get("/admin/v1/audit")).json()["rows"]
    return [row["action"] for row in rows if row["actor"] != "local"]


async def test_a_tenant_is_made_and_shown_with_what_it_has_by_default(operator):
    made = await operator.post(TENANTS, {"name": "acme"})
    assert made.status_code == 201
    row = made.json()
    assert (row["weight"], row["priority"], row["isolation"], row["suspended"]) == (
        1.0,
        "interactive",
        "private",
        False,
    )
    assert (row["salt_epoch"], row["version"], row["keys"], row["requests"]) == (0, 1, 0, 0)
    assert set(row["limits"].values()) == {None}
    assert await names(operator) == ["acme", "default"]
    shown = await operator.get(ACME)
    assert shown.json() == row
    assert shown.headers["etag"] == made.headers["etag"] == '"1"'


async def test_all_that_can_be_set_is_kept_and_known_at_once(admin, operator):
    limits = {
        "requests_per_minute": 60,
        "input_tokens_per_minute": 100_000,
        "output_tokens_per_minute": 20_000,
        "concurrent_requests": 8,
        "queued_requests": 0,
        "tokens_per_day": 2**53,
        "tokens_per_month": 1,
        "models": ["preble-demo"],
        "max_prompt_tokens": 4096,
        "max_output_tokens": 512,
        "pinned_tokens": 0,
    }
    settings = {"weight": 2.5, "priority": "batch", "isolation": "group:research", "suspended": True, "limits": limits}
    made = (await operator.post(TENANTS, {"name": "acme", **settings})).json()
    assert {name: made[name] for name in settings} == settings
    found = admin.accounts.directory.find(TenantName("acme"))
    assert (found.settings.weight, found.settings.limits.models) == (2.5, ("preble-demo",))


async def test_making_the_same_again_is_the_same_and_another_is_a_conflict(operator):
    wanted = {"name": "acme", "weight": 2, "limits": {"requests_per_minute": 5}}
    assert (await operator.post(TENANTS, wanted)).status_code == 201
    again = await operator.post(TENANTS, wanted)
    assert (again.status_code, again.headers["etag"]) == (200, '"1"')
    other = await operator.post(TENANTS, {"name": "acme"})
    assert (other.status_code, problem(other)["code"]) == (409, "conflict")
    assert (await operator.get(ACME)).json()["weight"] == 2.0
    assert await changes(operator) == ["tenant.create"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": 1}, "name"),
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "Ä"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a", "wieght": 2}, "wieght"),
        ({"name": "a", "weight": 0}, "weight"),
        ({"name": "a", "weight": 1e9}, "weight"),
        ({"name": "a", "priority": "urgent"}, "priority"),
        ({"name": "a", "isolation": "group:"}, "isolation"),
        ({"name": "a", "suspended": 1}, "suspended"),
        ({"name": "a", "limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"name": "a", "limits": {"tokens_per_day": 2**53 + 1}}, "limits.tokens_per_day"),
        ({"name": "a", "limits": {"models": []}}, "limits.models"),
        ({"name": "a", "limits": {"rpm": 1}}, "limits"),
        ({"name": "a", "limits": None}, "limits"),
        ([], None),
    ],
)
async def test_a_bad_tenant_is_refused_by_the_name_of_its_field(operator, body, param):
    response = await operator.post(TENANTS, body)
    assert (response.status_code, problem(response)["param"]) == (400, param)
    assert await names(operator) == ["default"]


async def test_an_unknown_name_is_answered_with_the_nearest(operator):
    for method in ("GET", "PATCH", "DELETE"):
        response = await operator.send(method, f"{TENANTS}/defalt", json={})
        assert response.status_code == 404
        assert "'default'" in problem(response)["message"]


async def test_what_is_not_named_stays_and_null_lifts_a_limit(operator):
    await operator.post(TENANTS, {"name": "acme", "weight": 2, "limits": {"tokens_per_day": 9, "models": ["m"]}})
    changed = await operator.patch(ACME, {"priority": "batch", "limits": {"models": None, "queued_requests": 3}})
    row = changed.json()
    assert (changed.status_code, changed.headers["etag"], row["version"]) == (200, '"2"', 2)
    assert (row["weight"], row["priority"]) == (2.0, "batch")
    limits = {name: value for name, value in row["limits"].items() if value is not None}
    assert limits == {"tokens_per_day": 9, "queued_requests": 3}


async def test_a_change_to_what_is_there_already_is_none(operator):
    await operator.post(TENANTS, {"name": "acme"})
    assert (await operator.patch(ACME, {"weight": 1, "limits": {}})).json()["version"] == 1
    assert (await operator.patch(ACME, {})).json()["version"] == 1
    assert await changes(operator) == ["tenant.create"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"weight": None}, "weight"),
        ({"name": "b"}, "name"),
        ({"salt_epoch": 7}, "salt_epoch"),
        ({"limits": 1}, "limits"),
    ],
)
async def test_a_bad_change_is_refused_by_the_name_of_its_field(operator, body, param):
    response = await operator.patch(f"{TENANTS}/default", body)
    assert (response.status_code, problem(response)["param"]) == (400, param)


async def test_a_lost_update_is_refused(operator):
    await operator.post(TENANTS, {"name": "acme"})
    first, second = [{"if-match": (await operator.get(ACME)).headers["etag"]} for _ in range(2)]
    assert (await operator.patch(ACME, {"weight": 2}, headers=first)).status_code == 200
    lost = await operator.patch(ACME, {"weight": 3}, headers=second)
    assert (lost.status_code, problem(lost)["code"]) == (412, "precondition_failed")
    assert (await operator.delete(ACME, headers=second)).status_code == 412
    assert (await operator.get(ACME)).json()["weight"] == 2.0


@pytest.mark.parametrize(
    ("tag", "status"),
    [("*", 200), ('"1"', 200), ('"7", "1"', 200), ('W/"1"', 412), ("1", 412), ('"x"', 412), ("", 412), ('"²"', 412)],
)
async def test_other_tags_than_its_own_do_not_match(operator, tag, status):
    headers = {"if-match": tag.encode("latin-1")}
    assert (await operator.patch(f"{TENANTS}/default", {"weight": 2}, headers=headers)).status_code == status


async def test_what_is_tried_is_told_and_not_done(operator):
    await operator.post(TENANTS, {"name": "acme"})
    made = await operator.post(TENANTS, {"name": "new", "weight": 2}, dry_run=True)
    assert (made.status_code, made.json()["before"], made.json()["after"]["weight"]) == (200, None, 2.0)
    changed = (await operator.patch(ACME, {"weight": 3}, dry_run=True)).json()
    assert (changed["action"], changed["target"]) == ("tenant.update", "acme")
    assert (changed["before"]["weight"], changed["after"]["weight"]) == (1.0, 3.0)
    assert (await operator.delete(ACME, dry_run=True)).json()["after"] is None
    assert (await operator.post(f"{ACME}/rotate-salt", dry_run=True)).json()["after"]["salt_epoch"] == 1
    assert (await operator.post(TENANTS, {"name": "new", "weight": 0}, dry_run=True)).status_code == 400
    assert (await operator.post(TENANTS, {"name": "acme", "weight": 2}, dry_run=True)).status_code == 409
    assert (await operator.patch(ACME, {}, headers={"if-match": '"9"'}, dry_run=True)).status_code == 412
    assert (await operator.delete(f"{TENANTS}/default", dry_run=True)).status_code == 409
    assert await names(operator) == ["acme", "default"]
    assert ((await operator.get(ACME)).json()["version"], await changes(operator)) == (1, ["tenant.create"])


async def test_a_suspended_tenant_is_refused_until_it_is_resumed(operator, tenant):
    await operator.patch(f"{TENANTS}/default", {"suspended": True})
    refused = await tenant.get("/v1/usage")
    assert (refused.status_code, problem(refused)["code"]) == (403, "tenant_suspended")
    await operator.patch(f"{TENANTS}/default", {"suspended": False})
    assert (await tenant.get("/v1/usage")).status_code == 200


async def test_a_salt_has_another_epoch_each_time(operator):
    epochs = [(await operator.post(f"{TENANTS}/default/rotate-salt")).json()["salt_epoch"] for _ in range(2)]
    assert epochs == [1, 2]


async def test_a_tenant_with_working_keys_is_kept_unless_they_are_to_go_too(operator, tenant):
    kept = await operator.delete(f"{TENANTS}/default")
    assert (kept.status_code, problem(kept)["code"]) == (409, "conflict")
    assert "1 working key" in problem(kept)["message"]
    assert (await tenant.get("/v1/usage")).status_code == 200
    gone = await operator.delete(f"{TENANTS}/default", revoke_keys=True)
    assert (gone.status_code, gone.json()["name"]) == (200, "default")
    assert (await tenant.get("/v1/usage")).status_code == 401
    assert (await operator.get(f"{TENANTS}/default")).status_code == 404
    assert await names(operator) == []
    assert await changes(operator) == ["tenant.delete", "key.revoke"]


async def test_whoever_gets_the_name_of_another_gets_nothing_else_of_it(operator, anyone):
    await operator.post(TENANTS, {"name": "acme", "weight": 5})
    await operator.post(f"{ACME}/rotate-salt")
    old = (await operator.post("/admin/v1/keys", {"tenant": "acme"})).json()
    await operator.delete(ACME, revoke_keys=True)
    made = await operator.post(TENANTS, {"name": "acme"})
    assert (made.status_code, made.json()["weight"], made.json()["keys"]) == (201, 1.0, 0)
    assert made.json()["salt_epoch"] == 2, "what is cached for the other is not found"
    assert (await Caller(anyone, old["key"]).get("/v1/usage")).status_code == 401
    assert (await operator.patch(f"/admin/v1/keys/{old['id']}", {"expires_at": None})).status_code == 409
    stale = await operator.patch(ACME, {"weight": 2}, headers={"if-match": '"1"'})
    assert stale.status_code == 412, "versions do not begin again"


async def test_tenants_are_listed_page_by_page(operator):
    for number in range(4):
        await operator.post(TENANTS, {"name": f"t{number}"})
    first = (await operator.get(TENANTS, limit=2)).json()
    assert ([row["name"] for row in first["rows"]], first["next"]) == (["default", "t0"], "t0")
    await operator.delete(f"{TENANTS}/t0")
    second = (await operator.get(TENANTS, limit=2, after=first["next"])).json()
    assert ([row["name"] for row in second["rows"]], second["next"]) == (["t1", "t2"], "t2")
    last = (await operator.get(TENANTS, limit=2, after=second["next"])).json()
    assert ([row["name"] for row in last["rows"]], last["next"]) == (["t3"], None)
    exact = (await operator.get(TENANTS, limit=4)).json()
    assert (len(exact["rows"]), exact["next"]) == (4, None)


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"limit": "x"}])
async def test_a_page_has_bounds(operator, query):
    assert problem(await operator.get(TENANTS, **query))["param"] == "limit"

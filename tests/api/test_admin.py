"""The operator's routes: who may use them; usage, engines and decisions; and a tenant's own."""

import pytest
from tests.admin_app import FAILURES_AT_ONCE, author, explanation, usage
from tests.api.calling import Caller, problem

from preble.daemon.wire.settings import TenantSettings

# --- who may ---


ROUTES = [
    ("GET", "/admin/v1/tenants"),
    ("POST", "/admin/v1/tenants"),
    ("GET", "/admin/v1/tenants/default"),
    ("PATCH", "/admin/v1/tenants/default"),
    ("DELETE", "/admin/v1/tenants/default"),
    ("POST", "/admin/v1/tenants/default/rotate-salt"),
    ("GET", "/admin/v1/keys"),
    ("POST", "/admin/v1/keys"),
    ("GET", "/admin/v1/keys/x"),
    ("PATCH", "/admin/v1/keys/x"),
    ("POST", "/admin/v1/keys/x/revoke"),
    ("POST", "/admin/v1/keys/x/rotate"),
    ("GET", "/admin/v1/audit"),
    ("GET", "/admin/v1/usage"),
    ("GET", "/admin/v1/gpus"),
    ("POST", "/admin/v1/gpus/cpu0/drain"),
    ("POST", "/admin/v1/gpus/cpu0/undrain"),
    ("POST", "/admin/v1/gpus/cpu0/restart"),
    ("GET", "/admin/v1/explain/req_1"),
    ("POST", "/admin/v1/explain"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_admin_route_wants_an_operators_key(anyone, tmp_path, method, path):
    key = (tmp_path / "default.key").read_text().strip()
    nobody = await anyone.request(method, path)
    assert (nobody.status_code, problem(nobody)["code"]) == (401, "invalid_api_key")
    assert nobody.headers["www-authenticate"] == "Bearer"
    tenants = await anyone.request(method, path, headers={"authorization": f"Bearer {key}"})
    assert (tenants.status_code, problem(tenants)["code"]) == (403, "permission_denied")


READS = [("GET", path) for method, path in ROUTES if method == "GET"] + [("POST", "/admin/v1/explain")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_key_that_may_only_read_changes_nothing(operator, anyone, method, path):
    made = (await operator.post("/admin/v1/keys", {"tenant": None, "scopes": ["admin:read"]})).json()
    answered = await Caller(anyone, made["key"]).send(method, path)
    assert (answered.status_code == 403) == ((method, path) not in READS)


async def test_the_list_above_has_every_admin_route(admin):
    served = {
        (method, route.path)
        for route in admin.app.routes
        for method in route.methods - {"OPTIONS"}
        if route.path.startswith("/admin")
    }
    assert len(served) == len(ROUTES)


async def test_an_unwelcome_body_is_not_even_read(anyone):
    response = await anyone.post("/admin/v1/tenants", content=b"{" * 100_000)
    assert response.status_code == 401


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "a"} x', b"\xff\xfe", b'{"name": "\xff"}', b"[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(operator, content):
    response = await operator.post("/admin/v1/tenants", content=content)
    assert response.status_code == 400
    assert problem(response)["type"] == "invalid_request_error"


# --- without a valid key, too often ---


async def test_an_address_that_has_no_key_is_slowed_down_and_one_that_has_is_not(anyone, operator, tenant):
    refused = [await anyone.get("/admin/v1/gpus") for _ in range(FAILURES_AT_ONCE + 1)]
    assert [each.status_code for each in refused] == [401] * FAILURES_AT_ONCE + [429]
    last = refused[-1]
    assert problem(last)["code"] == "rate_limit_exceeded"
    assert last.headers["retry-after"] == "1"
    assert 0 < int(last.headers["retry-after-ms"]) <= 1000
    assert (await operator.get("/admin/v1/gpus")).status_code == 200
    assert (await tenant.get("/v1/usage")).status_code == 200
    assert (await tenant.get("/admin/v1/gpus")).status_code == 403, "its key is valid"
    assert (await anyone.get("/v1/usage")).status_code == 429


# --- usage ---


@pytest.fixture
async def used(admin):
    await admin.accounts.tenants.create("acme", TenantSettings(), author(0.0))
    for number in range(5):
        admin.ledger.record(usage(number, "acme" if number < 3 else "default"))
    await admin.ledger.close()
    return admin


async def test_operators_see_the_usage_of_all(used, operator):
    page = (await operator.get("/admin/v1/usage", limit=2, offset=1)).json()
    assert [row["request_id"] for row in page["rows"]] == ["req_3", "req_2"]
    assert page["rows"][0]["created_at"] == "1970-01-01T00:00:03.000+00:00"
    assert {row["tenant"]: row["requests"] for row in page["totals"]} == {"acme": 3, "default": 2}
    acme = (await operator.get("/admin/v1/usage", tenant="acme", since="1970-01-01T00:00:01Z")).json()
    assert acme["totals"] == [
        {"tenant": "acme", "requests": 2, "prompt_tokens": 20, "cached_tokens": 8, "output_tokens": 6}
    ]
    assert (await operator.get("/admin/v1/tenants/acme")).json()["prompt_tokens"] == 30


async def test_what_another_has_used_who_had_the_name_is_the_operators_alone(used, operator, anyone):
    await operator.delete("/admin/v1/tenants/acme", revoke_keys=True)
    await operator.post("/admin/v1/tenants", {"name": "acme"})
    assert (await operator.get("/admin/v1/tenants/acme")).json()["requests"] == 0
    assert (await operator.get("/admin/v1/usage", tenant="acme")).json()["totals"][0]["requests"] == 3
    made = (await operator.post("/admin/v1/keys", {"tenant": "acme"})).json()
    assert (await Caller(anyone, made["key"]).get("/v1/usage")).json() == {"rows": [], "totals": []}


async def test_a_tenant_sees_its_own_usage_only(used, tenant):
    page = (await tenant.get("/v1/usage")).json()
    assert {row["tenant"] for row in page["rows"]} == {"default"}
    assert [row["tenant"] for row in page["totals"]] == ["default"]
    assert (await tenant.get("/v1/usage", tenant="acme")).json() == page


async def test_the_usage_of_nobody_is_not_found(operator):
    assert (await operator.get("/admin/v1/usage", tenant="nobody")).status_code == 404


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"since": "yesterday"}, "since"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"offset": -1}, "offset"),
        ({"offset": 10**30}, "offset"),
        ({"limit": "x"}, "limit"),
    ],
)
async def test_a_bad_query_is_refused_by_the_name_of_its_field(operator, query, param):
    response = await operator.get("/admin/v1/usage", **query)
    assert (response.status_code, problem(response)["param"]) == (400, param)


# --- engines, and decisions ---


async def test_a_gpu_is_drained_put_back_and_restarted(operator):
    assert (await operator.post("/admin/v1/gpus/cpu0/drain")).json()["draining"] is True
    assert (await operator.get("/admin/v1/gpus")).json()[0]["draining"] is True
    assert (await operator.post("/admin/v1/gpus/cpu0/undrain")).json()["draining"] is False
    assert (await operator.post("/admin/v1/gpus/cpu0/restart")).json()["restarts"] == 1
    missing = await operator.post("/admin/v1/gpus/cpu9/drain")
    assert (missing.status_code, problem(missing)["param"]) == (404, "gpu")


@pytest.mark.parametrize("order", ["drain", "undrain", "restart"])
async def test_an_order_that_is_tried_is_not_given(operator, order):
    tried = await operator.post(f"/admin/v1/gpus/cpu0/{order}", dry_run=True)
    assert (tried.json()["action"], tried.json()["target"]) == (f"gpu.{order}", "cpu0")
    assert (await operator.post(f"/admin/v1/gpus/cpu9/{order}", dry_run=True)).status_code == 404
    gpu = (await operator.get("/admin/v1/gpus")).json()[0]
    assert (gpu["draining"], gpu["restarts"]) == (False, 0)
    assert [row for row in (await operator.get("/admin/v1/audit")).json()["rows"] if row["target"] == "cpu0"] == []


async def test_a_decision_is_explained_as_soon_as_it_is_recorded(admin, operator):
    admin.decisions.record(explanation())
    told = (await operator.get("/admin/v1/explain/req_1")).json()
    assert told["candidates"][0]["cost_ms"] == 1506.0
    assert told["actual"]["cached_tokens"] == 2400
    assert (await operator.get("/admin/v1/explain/req_2")).status_code == 404

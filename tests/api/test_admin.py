"""The operator's routes: who may use them; engines and decisions."""

import pytest
from tests.admin_app import FAILURES_AT_ONCE, explanation
from tests.api.calling import Caller, problem

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
    ("GET", "/admin/v1/templates"),
    ("POST", "/admin/v1/templates"),
    ("GET", "/admin/v1/templates/x"),
    ("DELETE", "/admin/v1/templates/x"),
    ("GET", "/admin/v1/templates/x/versions"),
    ("POST", "/admin/v1/templates/x/render"),
    ("PUT", "/admin/v1/templates/x/labels/y"),
    ("DELETE", "/admin/v1/templates/x/labels/y"),
    ("POST", "/admin/v1/templates/x/warm"),
    ("POST", "/admin/v1/templates/x/pin"),
    ("DELETE", "/admin/v1/templates/x/pin"),
    ("GET", "/admin/v1/templates/x/pins"),
    ("GET", "/admin/v1/template-stats"),
    ("POST", "/admin/v1/explain/req_1/what-if"),
    ("GET", "/admin/v1/prefixes"),
    ("GET", "/admin/v1/prefixes/x/text"),
    ("GET", "/admin/v1/decisions"),
    ("POST", "/admin/v1/requests/req_1/cancel"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_admin_route_wants_an_operators_key(anyone, tmp_path, method, path):
    key = (tmp_path / "default.key").read_text().strip()
    nobody = await anyone.request(method, path)
    assert (nobody.status_code, problem(nobody)["code"]) == (401, "invalid_api_key")
    assert nobody.headers["www-authenticate"] == "Bearer"
    tenants = await anyone.request(method, path, headers={"authorization": f"Bearer {key}"})
    assert (tenants.status_code, problem(tenants)["code"]) == (403, "permission_denied")


PROMPTS = "/admin/v1/prefixes/x/text"
READS = [("GET", path) for method, path in ROUTES if method == "GET" and path != PROMPTS] + [
    ("POST", "/admin/v1/explain"),
    ("POST", "/admin/v1/templates/x/render"),
    ("POST", "/admin/v1/explain/req_1/what-if"),
]


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
        if route.path.startswith("/admin") and route.path != "/admin/v1/live"  # which has tests of its own
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

"""The operator's routes: who may use them, what they do, and what they say to bad input."""

import httpx
import pytest
from tests.admin_app import explanation, open_admin_app, usage
from tests.api.documented import Documented


@pytest.fixture
async def admin(tmp_path):
    async with open_admin_app(tmp_path) as opened:
        yield opened


@pytest.fixture
async def anyone(admin):
    app = Documented(admin.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://preble") as client:
        yield client
    assert not app.faults


@pytest.fixture
async def operator(anyone, tmp_path):
    return Caller(anyone, (tmp_path / "operator.key").read_text().strip())


@pytest.fixture
async def tenant(anyone, tmp_path):
    return Caller(anyone, (tmp_path / "default.key").read_text().strip())


class Caller:
    """Sends requests with a key."""

    def __init__(self, client, key: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {key}"}

    async def get(self, path: str, **query):
        return await self._client.get(path, headers=self._headers, params=query)

    async def post(self, path: str, json: object = None, content: bytes | None = None):
        return await self._client.post(path, headers=self._headers, json=json, content=content)


def problem(response) -> dict:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


# --- who may ---


ROUTES = [
    ("GET", "/admin/v1/tenants"),
    ("POST", "/admin/v1/tenants"),
    ("GET", "/admin/v1/tenants/default"),
    ("GET", "/admin/v1/keys"),
    ("POST", "/admin/v1/keys"),
    ("POST", "/admin/v1/keys/x/revoke"),
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


# --- tenants and keys ---


async def test_a_tenant_is_made_once_and_shown(operator):
    made = await operator.post("/admin/v1/tenants", {"name": "acme"})
    assert (made.status_code, made.json()["name"], made.json()["requests"]) == (201, "acme", 0)
    again = await operator.post("/admin/v1/tenants", {"name": "acme"})
    assert (again.status_code, problem(again)["code"]) == (409, "conflict")
    assert [row["name"] for row in (await operator.get("/admin/v1/tenants")).json()] == ["acme", "default"]
    assert (await operator.get("/admin/v1/tenants/acme")).json() == made.json()


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
        ({"name": "a", "wieght": 2}, "wieght"),
        ([], None),
    ],
)
async def test_a_bad_tenant_is_refused_by_the_name_of_its_field(operator, body, param):
    response = await operator.post("/admin/v1/tenants", body)
    assert (response.status_code, problem(response)["param"]) == (400, param)
    assert len((await operator.get("/admin/v1/tenants")).json()) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "a"} x', b"\xff\xfe", b'{"name": "\xff"}', b"[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(operator, content):
    response = await operator.post("/admin/v1/tenants", content=content)
    assert response.status_code == 400
    assert problem(response)["type"] == "invalid_request_error"


async def test_an_unknown_name_is_answered_with_the_nearest(operator):
    response = await operator.get("/admin/v1/tenants/defalt")
    assert response.status_code == 404
    assert "'default'" in problem(response)["message"]


async def test_a_key_works_until_the_next_request_after_its_revocation(operator, anyone):
    created = (await operator.post("/admin/v1/keys", {"tenant": "default", "name": "app"})).json()
    assert set(created) == {"key", "id", "tenant"}
    caller = Caller(anyone, created["key"])
    assert (await caller.get("/v1/usage")).status_code == 200
    revoked = await operator.post(f"/admin/v1/keys/{created['id']}/revoke")
    assert revoked.json()["revoked_at"] is not None
    assert (await caller.get("/v1/usage")).status_code == 401


async def test_keys_are_listed_without_their_secrets(operator):
    created = (await operator.post("/admin/v1/keys", {"tenant": "default", "expires_in_days": 1.5})).json()
    assert created["key"] not in (await operator.get("/admin/v1/keys")).text
    *_, row = (await operator.get("/admin/v1/keys", tenant="default")).json()
    assert (row["id"], row["tenant"], row["last4"]) == (created["id"], "default", created["key"][-4:])
    assert row["created_at"].endswith("+00:00")
    assert row["expires_at"] > row["created_at"]
    assert "inference" in row["scopes"]
    assert "admin:read" not in row["scopes"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "tenant"),
        ({"tenant": "nobody"}, 404, "tenant"),
        ({"tenant": "default", "expires_in_days": 0}, 400, "expires_in_days"),
        ({"tenant": "default", "expires_in_days": -1}, 400, "expires_in_days"),
        ({"tenant": "default", "expires_in_days": 1e300}, 400, "expires_in_days"),
        ({"tenant": "default", "expires_in_days": "1"}, 400, "expires_in_days"),
        ({"tenant": "default", "name": "x" * 201}, 400, "name"),
        ({"tenant": "default", "name": "\x1b[31m"}, 400, "name"),
        ({"tenant": "default", "scopes": ["admin:write"]}, 400, "scopes"),
    ],
)
async def test_a_bad_key_is_refused_by_the_name_of_its_field(operator, body, status, param):
    response = await operator.post("/admin/v1/keys", body)
    assert (response.status_code, problem(response)["param"]) == (status, param)
    assert len((await operator.get("/admin/v1/keys")).json()) == 2


async def test_unknown_keys_and_tenants_are_not_found(operator):
    assert (await operator.post("/admin/v1/keys/nothing/revoke")).status_code == 404
    assert (await operator.get("/admin/v1/keys", tenant="nobody")).status_code == 404
    assert (await operator.get("/admin/v1/usage", tenant="nobody")).status_code == 404


# --- usage ---


@pytest.fixture
async def used(admin):
    await admin.accounts.create_tenant("acme", 1.0)
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


async def test_a_tenant_sees_its_own_usage_only(used, tenant):
    page = (await tenant.get("/v1/usage")).json()
    assert {row["tenant"] for row in page["rows"]} == {"default"}
    assert [row["tenant"] for row in page["totals"]] == ["default"]
    assert (await tenant.get("/v1/usage", tenant="acme")).json() == page


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


async def test_a_decision_is_explained_as_soon_as_it_is_recorded(admin, operator):
    admin.decisions.record(explanation())
    told = (await operator.get("/admin/v1/explain/req_1")).json()
    assert told["candidates"][0]["cost_ms"] == 1506.0
    assert told["actual"]["cached_tokens"] == 2400
    assert (await operator.get("/admin/v1/explain/req_2")).status_code == 404

"""Who may use the tenants' routes, which routes and methods there are, and what is in every answer."""

from dataclasses import replace

import httpx
import pytest
from tests.api.bodies import CHAT, COMPLETIONS, GOOD, untouched
from tests.api.inference_app import problem
from tests.core import MODEL

from preble.daemon.ids import TenantName

BAD_AUTHORIZATIONS = [
    None,
    "",
    "Bearer",
    "Bearer sk-nonsense",
    "Basic dXNlcjpwYXNz",
    "Bearer preble_live_abcdefghijkl_" + "x" * 49,
    "Bearer \u00e9".encode("latin-1"),
    "Bearer " + "x" * 10_000,
]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("POST", COMPLETIONS), ("GET", "/v1/models"), ("GET", f"/v1/models/{MODEL}")]
)
async def test_without_a_valid_key_there_is_no_service(house, subtests, method, path):
    async with httpx.AsyncClient(base_url=house.base_url, trust_env=False) as anyone:
        for header in BAD_AUTHORIZATIONS:
            with subtests.test(str(header)[:60]):
                headers = {} if header is None else {"authorization": header}
                response = await anyone.request(method, path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                assert problem(response)["code"] == "invalid_api_key"
    assert untouched(house)


async def test_a_revoked_or_expired_key_is_refused_like_an_unknown_one(house, client):
    expired = house.make_key(TenantName("acme"), expires_at_s=1.0)
    refusals = [await client.get("/v1/models", headers={"authorization": f"Bearer {expired}"})]
    key = next(key for key in house.directory.find_keys() if key.tenant and key.expires_at_s is None)
    house.directory.put_key(replace(key, revoked_at_s=1.0))
    refusals.append(await client.post(COMPLETIONS, json=GOOD[COMPLETIONS]))
    refusals.append(await client.get("/v1/models", headers={"authorization": "Bearer sk-nonsense"}))
    assert [refusal.status_code for refusal in refusals] == [401, 401, 401]
    assert len({problem(refusal)["message"] for refusal in refusals}) == 1
    assert untouched(house)


async def test_an_operators_key_is_not_a_tenants(house, client):
    headers = {"authorization": f"Bearer {house.operator_key}"}
    for response in (
        await client.post(CHAT, json=GOOD[CHAT], headers=headers),
        await client.post(COMPLETIONS, json=GOOD[COMPLETIONS], headers=headers),
        await client.get("/v1/models", headers=headers),
    ):
        assert (response.status_code, problem(response)["code"]) == (403, "permission_denied")
    assert untouched(house)


async def test_an_unwelcome_body_is_not_even_read(house):
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\nconnection: close\r\n\r\n"
    assert (await house.raw(head.encode())).startswith(b"HTTP/1.1 401 ")


# --- routes ---


async def test_an_unknown_route_is_404(client, subtests):
    for path in ("/", "/v1", "/v1/nothing", "/v2/completions", "/v1/completions/x", "/%00", "/\u00e9"):
        for method in ("GET", "POST", "DELETE"):
            with subtests.test(f"{method} {path}"):
                response = await client.request(method, path)
                assert response.status_code == 404
                error = problem(response)
                assert (error["code"], error["type"]) == ("not_found", "invalid_request_error")
                assert method in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, {"POST", "OPTIONS"}),
        ("PUT", COMPLETIONS, {"POST", "OPTIONS"}),
        ("DELETE", "/v1/models", {"GET", "OPTIONS"}),
        ("POST", "/health/live", {"GET", "OPTIONS"}),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(client, method, path, allowed):
    response = await client.request(method, path)
    assert response.status_code == 405
    assert (problem(response)["code"], problem(response)["type"]) == ("method_not_allowed", "invalid_request_error")
    assert {name.strip() for name in response.headers["allow"].split(",")} == allowed
    asked = await client.options(path)
    assert asked.status_code == 204
    assert asked.content == b""
    assert {name.strip() for name in asked.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/v1/models"])
async def test_head_is_get_without_a_body(client, path):
    head, whole = await client.head(path), await client.get(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


async def test_health_needs_no_key_and_tells_why(house):
    async with httpx.AsyncClient(base_url=house.base_url, trust_env=False) as anyone:
        assert (await anyone.get("/health/live")).json() == {"status": "live"}
        assert (await anyone.get("/health/ready")).json() == {"status": "ready"}
        house.lose_engine(known=False)
        unready = await anyone.get("/health/ready")
        assert (unready.status_code, problem(unready)["message"]) == (503, "No engine serves it.")
        assert int(unready.headers["retry-after"]) >= 1
        metrics = await anyone.get("/metrics")
    assert metrics.headers.get_list("content-type") == [metrics.headers["content-type"]]
    assert metrics.headers["content-type"].startswith("text/plain; version=")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"), ("GET", f"/v1/models/{MODEL}"), ("GET", "/v1/models/x"), ("GET", "/nothing"),
        ("DELETE", COMPLETIONS), ("OPTIONS", COMPLETIONS), ("HEAD", "/v1/models"), ("GET", "/health/live"),
        ("GET", "/metrics"), ("GET", "/schema/openapi.json"), ("POST", COMPLETIONS),
    ],
)  # fmt: skip
async def test_every_answer_names_its_request_once(house, client, method, path):
    names = set()
    for headers in ({"authorization": "Bearer sk-nonsense"}, {}, {}):
        response = await client.request(method, path, headers=headers, json=GOOD[COMPLETIONS])
        [name] = response.headers.get_list("x-request-id")
        names.add(name)
    assert len(names) == 3
    assert all(name.startswith("req_") for name in names)
    assert {one.call.request_id for one in house.settled} <= names


async def test_no_answer_names_the_software_behind_it(client):
    for response in (await client.get("/v1/models"), await client.get("/nothing"), await client.get(CHAT)):
        assert "server" not in response.headers
        assert "x-powered-by" not in response.headers

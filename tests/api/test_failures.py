"""Addresses that keep coming without a valid key, on the real server."""

import httpx
from tests.api.inference_app import FAILURES_AT_ONCE, problem


async def test_an_address_is_slowed_down_on_every_route_and_another_is_not(house, client):
    async with httpx.AsyncClient(base_url=house.base_url, trust_env=False) as anyone:

        async def refusal(address: str | None = None) -> httpx.Response:
            headers = {} if address is None else {"x-forwarded-for": address}
            return await anyone.get("/v1/models", headers=headers)

        assert {(await refusal()).status_code for _ in range(FAILURES_AT_ONCE)} == {401}
        last = await refusal()
        assert (last.status_code, problem(last)["code"]) == (429, "rate_limit_exceeded")
        assert int(last.headers["retry-after"]) >= 1
        assert (await refusal("192.0.2.7")).status_code == 401, "behind a proxy on this machine"
    assert (await client.get("/v1/models")).status_code == 200, "its key is valid"
    page = (await client.get("/metrics")).text
    assert f"preble_unauthenticated_requests_total {FAILURES_AT_ONCE + 2}.0" in page

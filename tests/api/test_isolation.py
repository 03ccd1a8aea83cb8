"""Tenants apart: a prompt is found by those with whom it is shared, and nobody is told what others have asked."""

import json

import openai
import pytest
from tests.admin_app import author, usage
from tests.api.bodies import BOTH, CHAT, COMPLETIONS, untouched
from tests.api.inference_app import GPU, LIMITS, TENANT, open_client, problem
from tests.core import MODEL

from preble.daemon.engine.blocknames import BlockNames, Stored
from preble.daemon.flow.events import KvReported
from preble.daemon.ids import TenantName
from preble.daemon.wire.settings import TenantSettings

OTHER = TenantName("other")
TEXT = "x" * (10 * LIMITS.block_size + 1)
BODIES = {
    CHAT: {"model": MODEL, "messages": [{"role": "user", "content": TEXT}], "max_tokens": 1},
    COMPLETIONS: {"model": MODEL, "prompt": TEXT, "max_tokens": 1},
}
TOLD_BY_CACHE = {"x-preble-gpu", "x-preble-decision", "x-preble-cached-tokens"}


class Tenants:
    """Two of them, and what each finds of the same prompt."""

    def __init__(self, house):
        self.house = house
        self.keys = {TENANT: house.key, OTHER: house.make_key(OTHER)}
        self.isolate("private", "private")

    def isolate(self, *isolations):
        for name, isolation in zip(self.keys, isolations, strict=True):
            self.house.put_tenant(name, isolation=isolation)

    async def finds(self, tenant, path=COMPLETIONS, **more):
        """Tokens that the engine has found, after it was foretold that it would."""
        async with open_client(self.house, self.keys[tenant]) as client:
            response = await client.post(path, json={**BODIES[path], **more})
        assert response.status_code == 200, response.text
        settled = self.house.settled[-1]
        assert settled.call.request_id == response.headers["x-request-id"]
        await self._report(path)
        found = settled.cached_tokens
        assert abs(settled.decision.cached_tokens - found) <= 2 * LIMITS.block_size
        assert (settled.decision.cached_tokens > 0) == (found > 0)
        return found

    async def _report(self, path):
        """Have the engine say what it now caches, by the salt that it was sent."""
        body = self.house.engine.bodies[-1]
        encoder = self.house.encoder
        if path == CHAT:
            token_ids = await encoder.encode_chat(body)
        else:
            [token_ids] = await encoder.encode_completion(body)
        names = tuple(range(len(token_ids) // LIMITS.block_size))
        token_ids = token_ids[: len(names) * LIMITS.block_size].tolist()
        told = Stored(hashes=names, parent_hash=None, token_ids=token_ids, lora="", salt=body["cache_salt"])
        changes = tuple(BlockNames(MODEL, LIMITS.block_size).ours([told]))
        self.house.runtime.post(KvReported(gpu=GPU, epoch=1, changes=changes))


@pytest.fixture
def tenants(house):
    return Tenants(house)


@BOTH
async def test_private_tenants_find_what_they_have_asked_themselves(tenants, path):
    assert await tenants.finds(TENANT, path) == 0
    assert await tenants.finds(OTHER, path) == 0
    assert await tenants.finds(TENANT, path) > 0
    assert await tenants.finds(OTHER, path) > 0


@BOTH
@pytest.mark.parametrize("isolation", ["shared", "group:red"])
async def test_who_shares_prefixes_finds_those_of_the_others(tenants, path, isolation):
    tenants.isolate(isolation, isolation)
    assert await tenants.finds(TENANT, path) == 0
    assert await tenants.finds(OTHER, path) > 0


@pytest.mark.parametrize("isolations", [("group:red", "group:blue"), ("group:red", "shared"), ("shared", "private")])
async def test_other_scopes_are_other_caches(tenants, isolations):
    tenants.isolate(*isolations)
    assert await tenants.finds(TENANT) == 0
    assert await tenants.finds(OTHER) == 0


async def test_isolation_and_epoch_count_from_the_next_request_on(tenants):
    await tenants.finds(TENANT)
    assert await tenants.finds(TENANT) > 0
    tenants.house.put_tenant(TENANT, salt_epoch=1)
    assert await tenants.finds(TENANT) == 0
    tenants.isolate("shared", "shared")
    assert await tenants.finds(TENANT) == 0
    assert await tenants.finds(OTHER) > 0
    tenants.house.put_tenant(OTHER, salt_epoch=1, isolation="shared")
    assert await tenants.finds(TENANT) == 0, "the rotation is of all who share"


@pytest.mark.parametrize("isolation", ["private", "shared"])
async def test_a_salt_of_ones_own_narrows(tenants, isolation):
    tenants.isolate(isolation, isolation)
    await tenants.finds(TENANT)
    assert await tenants.finds(TENANT, cache_salt="a") == 0
    assert await tenants.finds(TENANT, cache_salt="a") > 0
    assert await tenants.finds(TENANT, cache_salt="b") == 0
    assert (await tenants.finds(OTHER, cache_salt="a") > 0) == (isolation == "shared")


async def test_no_salt_that_is_sent_leads_to_what_another_has_cached(tenants):
    await tenants.finds(TENANT)
    theirs = tenants.house.engine.bodies[-1]["cache_salt"]
    assert await tenants.finds(OTHER, cache_salt=theirs) == 0


async def test_a_salt_that_is_hidden_in_the_body_is_not_the_engines(house, client):
    content = json.dumps({**BODIES[COMPLETIONS], "cache_salt": "first"})
    content = content.replace('"cache_salt"', '"cache\\u005fsalt": "twice", "cache_salt"')
    assert (await client.post(COMPLETIONS, content=content)).status_code == 200
    assert len(house.engine.bodies[0]["cache_salt"]) == 64


@BOTH
@pytest.mark.parametrize("isolation", ["private", "shared", "group:red"])
async def test_who_shares_prefixes_is_not_told_what_was_cached(house, client, path, isolation):
    house.put_tenant(TENANT, isolation=isolation)
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    await client.post(path, json=BODIES[path])
    whole = await client.post(path, json=BODIES[path])
    stream = await client.post(path, json={**BODIES[path], **streamed})
    last = json.loads(stream.content.split(b"\n\n")[-3].removeprefix(b"data: "))
    assert house.settled[1].cached_tokens > 0
    for headers, body in ((whole.headers, whole.json()), (stream.headers, last)):
        told = body["usage"].pop("prompt_tokens_details")
        assert set(body["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
        if isolation == "private":
            assert set(headers) >= TOLD_BY_CACHE
            assert told["cached_tokens"] > 0
        else:
            assert not set(headers) & TOLD_BY_CACHE
            assert told is None


async def test_the_openai_package_takes_usage_without_cached_tokens(house):
    house.put_tenant(TENANT, isolation="shared")
    async with openai.AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as sdk:
        answer = await sdk.chat.completions.create(**BODIES[CHAT])
        options = {"include_usage": True}
        stream = await sdk.chat.completions.create(**BODIES[CHAT], stream=True, stream_options=options)
        usages = [chunk.usage async for chunk in stream if chunk.usage]
    assert [usage.prompt_tokens_details for usage in (answer.usage, *usages)] == [None, None]
    assert usages[0].prompt_tokens == answer.usage.prompt_tokens > 0


async def test_an_id_that_a_client_sends_is_nobodys(house, client):
    first = await client.post(COMPLETIONS, json=BODIES[COMPLETIONS])
    taken = first.headers["x-request-id"]
    body = {**BODIES[COMPLETIONS], "request_id": taken}
    second = await client.post(COMPLETIONS, json=body, headers={"x-request-id": taken})
    assert second.headers["x-request-id"] != taken
    assert house.engine.headers[1]["x-request-id"] == second.headers["x-request-id"]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": None, "uuid": "theirs"}],
        {"type": "image_url", "image_url": {"url": "data:,x"}, "uuid": 7},
    ],
)
async def test_no_image_is_found_by_a_name_that_another_gave_it(house, client, content):
    body = {**BODIES[CHAT], "messages": [{"role": "user", "content": "Hello."}, {"role": "user", "content": content}]}
    response = await client.post(CHAT, json=body)
    assert (response.status_code, problem(response)["param"]) == (400, "messages")
    assert "`uuid`" in problem(response)["message"]
    assert untouched(house)


# --- what is kept of requests ---


@pytest.fixture
async def recorded(admin):
    await admin.accounts.tenants.create("acme", TenantSettings(), author(0.0))
    admin.ledger.record(usage(1, "acme"))
    admin.ledger.record(usage(2))
    await admin.ledger.close()
    return admin


@pytest.mark.parametrize("isolation", ["private", "group:red", "shared"])
async def test_ones_own_usage_does_not_tell_what_others_have_asked(recorded, operator, tenant, isolation):
    await operator.patch("/admin/v1/tenants/default", {"isolation": isolation})
    page = (await tenant.get("/v1/usage")).json()
    [row], [total] = page["rows"], page["totals"]
    hidden = {"gpu", "mode", "cached_tokens", "predicted_cached_tokens", "queue_ms", "gpu_ms"}
    assert {name for name in hidden if row[name] is None} == (set() if isolation == "private" else hidden)
    assert total["cached_tokens"] == (4 if isolation == "private" else None)
    assert total["gpu_ms"] == (12.5 if isolation == "private" else None)
    assert (row["prompt_tokens"], total["output_tokens"]) == (10, 3)


async def test_operators_are_told_what_was_cached(recorded, operator):
    await operator.patch("/admin/v1/tenants/default", {"isolation": "shared"})
    for path in ("/admin/v1/usage", "/v1/usage"):
        page = (await operator.get(path)).json()
        assert [row["cached_tokens"] for row in page["rows"]] == [4, 4]
        assert [total["cached_tokens"] for total in page["totals"]] == [4, 4]
    assert (await operator.get("/admin/v1/tenants/default")).json()["cached_tokens"] == 4

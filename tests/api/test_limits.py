"""Limits as clients meet them: statuses, headers, and the openai package that obeys them."""

import asyncio
from contextlib import suppress
from time import monotonic, time

import openai
import pytest
from tests.api.bodies import BOTH, CHAT, COMPLETIONS, GOOD, HELLO
from tests.api.inference_app import LIMITS, TENANT, open_client, problem, until
from tests.core import MODEL

from preble.daemon.errors import RateLimited
from preble.daemon.tenancy.account import Limit, Moment
from preble.daemon.tenancy.keys import id_of
from preble.daemon.tenancy.limits import NO_TOKENS, Limiter
from preble.daemon.wire.settings import Limits

RATE_HEADERS = {
    f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
}


def rate_headers(response):
    return {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_tells_how_its_limits_stand(house, client, path, stream):
    assert rate_headers(await client.post(path, json={**GOOD[path], "stream": stream})) == {}
    house.limit(requests_per_minute=6, output_tokens_per_minute=600)
    told = rate_headers(await client.post(path, json={**GOOD[path], "stream": stream}))
    assert set(told) == RATE_HEADERS
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("6", "600")
    assert 5 <= int(told["x-ratelimit-remaining-requests"]) <= 6
    assert 596 <= int(told["x-ratelimit-remaining-tokens"]) <= 600
    assert told["x-ratelimit-reset-requests"].endswith("s")


@BOTH
async def test_who_is_too_fast_gets_429_and_nothing_is_sent_to_an_engine(house, client, path):
    house.limit(requests_per_minute=1)
    assert (await client.post(path, json=GOOD[path])).status_code == 200
    refused = await client.post(path, json=GOOD[path])
    assert refused.status_code == 429
    assert (problem(refused)["code"], problem(refused)["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "requests per minute" in problem(refused)["message"]
    assert "1 allowed" in problem(refused)["message"]
    assert 0 < int(refused.headers["retry-after-ms"]) <= 60_000
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-should-retry" not in refused.headers
    assert len(house.engine.bodies) == 1
    assert [(one.status, one.http_status, one.limit) for one in house.settled] == [
        ("finished", 200, None),
        ("refused", 429, "requests_per_minute"),
    ]


async def test_limits_of_a_key_hold_beside_those_of_its_tenant(house, client):
    house.limit(requests_per_minute=2)
    other = house.make_key(TENANT, requests_per_minute=1)
    async with open_client(house, other) as second:
        assert [(await second.post(CHAT, json=GOOD[CHAT])).status_code for _ in range(2)] == [200, 429]
    assert [(await client.post(CHAT, json=GOOD[CHAT])).status_code for _ in range(2)] == [200, 429]


async def test_an_operators_update_counts_at_once(house, client):
    house.limit(requests_per_minute=1)
    assert [(await client.post(CHAT, json=GOOD[CHAT])).status_code for _ in range(2)] == [200, 429]
    house.limit(requests_per_minute=2)
    assert [(await client.post(CHAT, json=GOOD[CHAT])).status_code for _ in range(2)] == [200, 429]


# --- what one request may be ---


async def test_a_model_that_is_not_allowed_is_as_if_it_were_not_there(house, client):
    house.limit(models=("another",))
    refused = await client.post(CHAT, json=GOOD[CHAT])
    assert (refused.status_code, problem(refused)["code"]) == (404, "model_not_found")
    assert (await client.get("/v1/models")).json()["data"] == []
    assert (await client.get(f"/v1/models/{MODEL}")).status_code == 404
    house.limit(models=("another", MODEL))
    assert (await client.post(CHAT, json=GOOD[CHAT])).status_code == 200
    assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == [MODEL]


@BOTH
async def test_longer_prompts_and_answers_than_allowed_are_bad_requests(house, client, path):
    house.limit(max_prompt_tokens=3)
    refused = await client.post(path, json={**GOOD[path], "prompt": "long"})
    assert (refused.status_code, problem(refused)["code"]) == (400, "prompt_too_long")
    house.limit(max_output_tokens=3)
    refused = await client.post(path, json={**GOOD[path], "max_tokens": 4})
    assert (refused.status_code, problem(refused)["code"]) == (400, "answer_too_long")
    assert not house.engine.bodies


@BOTH
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_of_unsaid_length_is_held_to_the_limit(house, client, path, stream):
    house.limit(max_output_tokens=3)
    body = {name: value for name, value in GOOD[path].items() if name != "max_tokens"}
    assert (await client.post(path, json={**body, "stream": stream})).status_code == 200
    field = "max_completion_tokens" if path == CHAT else "max_tokens"
    assert house.engine.bodies[0][field] == 3
    await house.at_rest()
    assert house.settled[0].output_tokens == 3


# --- concurrency, budgets ---


async def test_concurrent_requests_are_given_back_when_a_client_leaves(house, client):
    house.limit(concurrent_requests=1)
    house.engine.ms_per_token = 20
    async with client.stream(
        "POST", COMPLETIONS, json={**GOOD[COMPLETIONS], "max_tokens": 1000, "stream": True}
    ) as answer:
        assert answer.status_code == 200
        refused = await client.post(CHAT, json=GOOD[CHAT])
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    await until(lambda: not house.runtime.live_requests)
    house.engine.ms_per_token = 1
    assert (await client.post(CHAT, json=GOOD[CHAT])).status_code == 200


async def test_only_so_many_wait(house, client):
    house.limit(queued_requests=1)
    house.engine.ms_per_token = 10
    body = {**GOOD[COMPLETIONS], "max_tokens": 40, "n": 1}
    asked = [client.post(COMPLETIONS, json=body) for _ in range(LIMITS.max_num_seqs + 6)]
    answers = await asyncio.gather(*asked)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= LIMITS.max_num_seqs
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "waiting requests" in problem(refused)["message"]
    await house.at_rest()


async def test_a_spent_budget_is_an_insufficient_quota(house, client):
    house.limit(tokens_per_day=10)
    house.limiter.remember(Limit.DAY, TENANT, id_of(house.key), 10, time())
    refused = await client.post(CHAT, json=GOOD[CHAT])
    assert refused.status_code == 429
    assert (problem(refused)["code"], problem(refused)["type"]) == ("insufficient_quota", "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["retry-after"]) <= 86_400
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"


@pytest.mark.parametrize("isolation", ["private", "shared"])
async def test_what_is_left_does_not_tell_what_others_have_cached(house, client, monkeypatch, isolation):
    counted = []
    used = Limiter.used
    monkeypatch.setattr(Limiter, "used", lambda limiter, tokens: counted.append(tokens) or used(limiter, tokens))
    house.put_tenant(TENANT, isolation=isolation, limits=Limits(input_tokens_per_minute=2000))
    for _ in range(2):
        assert (await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "prompt": "x" * 640})).status_code == 200
    assert house.settled[1].cached_tokens > 0
    assert [tokens.cached > 0 for tokens in counted] == [False, isolation == "private"]


# --- the OpenAI package ---


@pytest.fixture
async def sdk(house):
    async with openai.AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as opened:
        yield opened


async def test_a_refusal_is_the_openai_packages_own(house, sdk):
    house.limit(requests_per_minute=1)
    await sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as refused:
        await sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert refused.value.response.headers["x-ratelimit-limit-requests"] == "1"


async def test_the_openai_package_waits_as_long_as_told_and_gets_in(house, sdk):
    """One request comes back in two seconds; without the header the package would come sooner, and fail."""
    house.limit(requests_per_minute=30)
    with suppress(RateLimited):
        while True:
            now = Moment(monotonic(), time())
            house.limiter.enter(TENANT, id_of(house.key), 0, now).end(NO_TOKENS, now)
    patient = sdk.with_options(max_retries=1)
    await patient.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
    assert [one.http_status for one in house.settled][-1] == 200


async def test_the_openai_package_does_not_retry_without_a_budget(house, sdk):
    house.limit(tokens_per_month=1)
    eager = sdk.with_options(max_retries=5)
    with pytest.raises(openai.RateLimitError) as refused:
        await eager.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=5)
    assert refused.value.code == "insufficient_quota"
    assert len(house.settled) == 1

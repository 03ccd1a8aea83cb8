"""The tenants' routes, as any HTTP client and as the unchanged OpenAI package see them."""

import json

import msgspec
import openai
import pytest
from tests.api.bodies import BOTH, CHAT, COMPLETIONS, GOOD, HELLO, untouched
from tests.api.inference_app import GPU, problem
from tests.core import MODEL

from preble.daemon.engine.client import EngineClient


@pytest.fixture
async def sdk(house):
    async with openai.AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as opened:
        yield opened


def events(stream: bytes) -> list[str]:
    return [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event]


@BOTH
async def test_an_answer_says_where_it_ran(house, client, path):
    response = await client.post(path, json=GOOD[path])
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["x-preble-gpu"] == GPU
    assert response.headers["x-preble-decision"] == "explore"
    assert response.headers["x-preble-cached-tokens"] == "0"
    assert response.json()["usage"]["completion_tokens"] == 4
    assert house.engine.headers[0]["x-request-id"] == response.headers["x-request-id"]
    assert [one.http_status for one in house.settled] == [200]


@BOTH
async def test_a_stream_is_server_sent_events_up_to_done(client, path):
    response = await client.post(path, json={**GOOD[path], "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-preble-gpu"] == GPU
    *chunks, done = events(response.content)
    assert done == "[DONE]"
    decoded = [json.loads(chunk) for chunk in chunks]
    assert all(chunk["choices"] for chunk in decoded)
    assert not any("usage" in chunk for chunk in decoded)


@BOTH
async def test_usage_is_streamed_if_asked_for(client, path):
    body = {**GOOD[path], "stream": True, "stream_options": {"include_usage": True}}
    *_, last, done = events((await client.post(path, json=body)).content)
    assert done == "[DONE]"
    assert json.loads(last)["usage"]["completion_tokens"] == 4


async def test_usage_of_every_chunk_is_not_sent_to_who_asked_for_no_usage(house, client):
    options = {"include_usage": False, "continuous_usage_stats": True, "include_obfuscation": False}
    await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "stream": True, "stream_options": options})
    assert house.engine.bodies[0]["stream_options"] == {"include_usage": True, "include_obfuscation": False}


ODD_OPTIONS = (
    b'"temperature": 0.30000000000000004, "top_p": 1.0, "seed": 123456789012345678901234567890, "stop": ["\\u00e9\\n"],'
    b' "logit_bias": {"7": -100}, "metadata": {"b": null, "a": [1e-7, 1E2, -0.0]}, "vllm_xargs": {"deep": {"er": []}},'
    b' "user": "\xc3\xa9 \\ud83d\\ude00", "priority": -3, "not_yet_invented": true'
)


@pytest.mark.parametrize("stream", [b"", b', "stream": true', b', "stream": true, "stream_options": null'])
@pytest.mark.parametrize("prompt", [b'"messages": [{"role": "user", "content": "x"}]', b'"prompt": "x"'])
async def test_options_that_the_daemon_does_not_know_reach_the_engine_as_they_are(client, monkeypatch, stream, prompt):
    sent = b'{"model": "%s", "max_tokens": 2, %s, %s%s}' % (MODEL.encode(), prompt, ODD_OPTIONS, stream)
    received = []
    stream_to_engine = EngineClient.stream

    def overheard(engine, path, body, headers):
        received.append(body)
        return stream_to_engine(engine, path, body, headers)

    monkeypatch.setattr(EngineClient, "stream", overheard)
    path = CHAT if b"messages" in prompt else COMPLETIONS
    response = await client.post(path, content=sent)
    assert response.status_code == 200
    theirs, ours = (msgspec.json.decode(body, type=dict[str, msgspec.Raw]) for body in (received[0], sent))
    assert len(theirs.pop("cache_salt")) == len('""') + 64
    theirs.pop("stream_options", None)
    ours.pop("stream_options", None)
    assert {name: bytes(value) for name, value in theirs.items()} == {name: bytes(v) for name, v in ours.items()}


async def test_clients_do_not_set_their_priority_in_the_engine(house, client):
    assert (await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "priority": -9})).status_code == 200
    assert house.engine.headers[0]["x-vllm-priority"] == "1"  # which goes before what the body says


async def test_a_slash_at_the_end_changes_nothing(house, client):
    response = await client.post(f"{COMPLETIONS}/", json=GOOD[COMPLETIONS])
    assert response.status_code == 200
    assert house.settled[0].call.path == COMPLETIONS


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", "application/json; charset=latin-1"])
async def test_the_body_is_json_whatever_its_type_is_called(client, content_type):
    content = json.dumps(GOOD[COMPLETIONS])
    response = await client.post(COMPLETIONS, content=content, headers={"content-type": content_type})
    assert response.status_code == 200


async def test_models_are_listed_and_described(client):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL]
    assert (await client.get(f"/v1/models/{MODEL}")).json() == listed["data"][0]
    unknown = await client.get("/v1/models/somebody/model")
    assert (unknown.status_code, problem(unknown)["code"]) == (404, "model_not_found")
    assert "`somebody/model`" in problem(unknown)["message"]


# --- the OpenAI package ---


async def test_errors_are_the_openai_packages_own(sdk, house):
    ask = sdk.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        await ask(model=MODEL, messages=[])
    assert (bad.value.param, bad.value.type) == ("messages", "invalid_request_error")
    assert bad.value.request_id.startswith("req_")
    with pytest.raises(openai.NotFoundError) as unknown:
        await ask(model="gpt-4", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as stranger:
        await sdk.with_options(api_key="sk-x").chat.completions.create(model=MODEL, messages=HELLO)
    assert stranger.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        await sdk.with_options(api_key=house.operator_key).models.list()
    house.lose_engine(known=True)
    with pytest.raises(openai.InternalServerError) as nobody:
        await ask(model=MODEL, messages=HELLO)
    assert nobody.value.status_code == 503


async def test_a_stream_that_breaks_off_raises_in_the_openai_package(sdk, house):
    house.engine.ms_per_token = 20
    stream = await sdk.completions.create(model=MODEL, prompt="x", max_tokens=1000, stream=True)
    await anext(stream)
    house.engine.cut()
    with pytest.raises(openai.APIError) as broken:
        [chunk async for chunk in stream]
    assert broken.value.code == "engine_failed"


# --- no engine ---


@BOTH
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_without_an_engine_clients_are_told_when_to_come_back(house, client, path, known, stream):
    house.lose_engine(known=known)
    response = await client.post(path, json={**GOOD[path], "stream": stream})
    assert response.status_code == 503
    assert (problem(response)["type"], problem(response)["code"]) == ("service_unavailable_error", "no_engine")
    assert int(response.headers["retry-after"]) >= 1
    assert int(response.headers["retry-after-ms"]) >= 1
    assert response.headers["x-request-id"].startswith("req_")
    assert untouched(house)


async def test_a_request_that_every_engine_fails_is_502(house, client):
    await house.engine.die()
    response = await client.post(COMPLETIONS, json=GOOD[COMPLETIONS])
    assert (response.status_code, problem(response)["code"]) == (502, "engine_failed")
    assert str(house.engine.socket_path) not in response.text

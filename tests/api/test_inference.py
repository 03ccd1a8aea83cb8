"""The tenants' routes, as any HTTP client and as the unchanged OpenAI package see them."""

import asyncio
import json
import socket
import string
from dataclasses import replace

import httpx
import msgspec
import openai
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.inference_app import GPU, LIMITS, MAX_BODY_BYTES, open_client, open_house, problem, reset, until
from tests.core import MODEL

from preble.daemon.api import inference
from preble.daemon.engine.client import EngineClient
from preble.daemon.engine.demo_model import _SPECIAL_TOKENS
from preble.daemon.ids import TenantName
from preble.daemon.prompt.tokens import Tokens
from preble.daemon.wire.openai import MAX_PROMPTS

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello there."}]
GOOD = {
    CHAT: {"model": MODEL, "messages": HELLO, "max_tokens": 4},
    COMPLETIONS: {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4},
}
BOTH = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


@pytest.fixture
async def house():
    async with open_house() as opened:
        yield opened


@pytest.fixture
async def client(house):
    async with open_client(house) as opened:
        yield opened


@pytest.fixture
async def sdk(house):
    async with openai.AsyncOpenAI(base_url=f"{house.base_url}/v1", api_key=house.key, max_retries=0) as opened:
        yield opened


def untouched(house) -> bool:
    """Nothing has reached an engine, and nothing is held for it."""
    return not house.engine.bodies and not house.runtime.live_requests


def events(stream: bytes) -> list[str]:
    return [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event]


# --- what is right is answered ---


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


ENGINE_ONLY = ["suffix", "truncate_prompt_tokens", "prompt_embeds", "kv_transfer_params"]
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
    theirs.pop("stream_options", None)
    ours.pop("stream_options", None)
    assert {name: bytes(value) for name, value in theirs.items()} == {name: bytes(v) for name, v in ours.items()}
    if not stream:
        assert received[0] == sent


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


# --- bad bodies: a clear 400 that names the field, and nothing happens ---


MALFORMED = {
    "empty": b"",
    "cut short": b'{"model": "m"',
    "a list": b"[1]",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"17",
    "not UTF-8": b"\xff\xfe",
    "not UTF-8 in a text": b'{"model": "\xff"}',
    "with a byte order mark": b"\xef\xbb\xbf{}",
    "in UTF-16": '{"model": "m"}'.encode("utf-16"),
    "not a number": b'{"model": NaN}',
    "a number out of range": b'{"model": "m", "prompt": "x", "temperature": 1e999}',
    "half a surrogate pair": b'{"model": "m", "prompt": "\\ud800"}',
    "two objects": b"{} {}",
    "deep lists": b'{"model": "m", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "form data": b"model=m&prompt=x",
}


@BOTH
async def test_a_malformed_body_is_refused(house, client, subtests, path):
    for name, body in MALFORMED.items():
        with subtests.test(name):
            response = await client.post(path, content=body)
            assert response.status_code == 400
            assert problem(response)["type"] == "invalid_request_error"
            assert response.headers["x-request-id"].startswith("req_")
            assert untouched(house)


BAD_FIELDS = [
    ([CHAT, COMPLETIONS], {"model": ...}, "model"),
    ([CHAT, COMPLETIONS], {"model": None}, "model"),
    ([CHAT, COMPLETIONS], {"model": 3}, "model"),
    ([CHAT, COMPLETIONS], {"model": [MODEL]}, "model"),
    ([CHAT, COMPLETIONS], {"stream": "yes"}, "stream"),
    ([CHAT, COMPLETIONS], {"stream": 1}, "stream"),
    ([CHAT, COMPLETIONS], {"stream_options": True}, "stream_options"),
    ([CHAT, COMPLETIONS], {"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ([CHAT, COMPLETIONS], {"max_tokens": 0}, "max_tokens"),
    ([CHAT, COMPLETIONS], {"max_tokens": -1}, "max_tokens"),
    ([CHAT, COMPLETIONS], {"max_tokens": 1.5}, "max_tokens"),
    ([CHAT, COMPLETIONS], {"max_tokens": "4"}, "max_tokens"),
    ([CHAT, COMPLETIONS], {"n": 0}, "n"),
    ([CHAT, COMPLETIONS], {"n": -1}, "n"),
    ([CHAT, COMPLETIONS], {"n": 129}, "n"),
    ([CHAT, COMPLETIONS], {"n": 10**30}, "n"),
    ([CHAT, COMPLETIONS], {"n": "two"}, "n"),
    ([CHAT, COMPLETIONS], {"n": True}, "n"),
    ([CHAT, COMPLETIONS], {"cache_salt": 3}, "cache_salt"),
    ([CHAT], {"messages": ...}, "messages"),
    ([CHAT], {"messages": None}, "messages"),
    ([CHAT], {"messages": []}, "messages"),
    ([CHAT], {"messages": "hello"}, "messages"),
    ([CHAT], {"messages": {"role": "user"}}, "messages"),
    ([CHAT], {"messages": ["hello"]}, "messages[0]"),
    ([CHAT], {"max_completion_tokens": 0}, "max_completion_tokens"),
    ([CHAT], {"max_completion_tokens": "4"}, "max_completion_tokens"),
    ([CHAT], {"tools": []}, "tools"),
    ([COMPLETIONS], {"prompt": ...}, "prompt"),
    ([COMPLETIONS], {"prompt": None}, "prompt"),
    ([COMPLETIONS], {"prompt": 3}, "prompt"),
    ([COMPLETIONS], {"prompt": {}}, "prompt"),
    ([COMPLETIONS], {"prompt": []}, "prompt"),
    ([COMPLETIONS], {"prompt": [-1]}, "prompt"),
    ([COMPLETIONS], {"prompt": [1 << 32]}, "prompt"),
    ([COMPLETIONS], {"prompt": [1, "x"]}, "prompt"),
    ([COMPLETIONS], {"prompt": [[1.5]]}, "prompt[0][0]"),
    ([COMPLETIONS], {"add_special_tokens": "no"}, "add_special_tokens"),
]


@BOTH
async def test_a_bad_field_is_named(house, client, subtests, path):
    for change, param in [(change, param) for paths, change, param in BAD_FIELDS if path in paths]:
        with subtests.test(str(change).replace("Ellipsis", "missing")):
            body = {name: value for name, value in {**GOOD[path], **change}.items() if value is not ...}
            response = await client.post(path, json=body)
            assert response.status_code == 400
            error = problem(response)
            assert (error["type"], error["param"]) == ("invalid_request_error", param)
            assert f"`{param}`" in error["message"]
            assert untouched(house)


@BOTH
async def test_a_prompt_beyond_the_models_context_is_refused(house, client, path):
    long = "x" * LIMITS.max_model_len
    body = {**GOOD[path], "prompt": long, "messages": [{"role": "user", "content": long}]}
    response = await client.post(path, json=body)
    assert (response.status_code, problem(response)["code"]) == (400, "context_length_exceeded")
    assert problem(response)["param"] == ("messages" if path == CHAT else "prompt")
    assert str(LIMITS.max_model_len) in problem(response)["message"]
    assert untouched(house)
    assert [one.http_status for one in house.settled] == [400]


@BOTH
async def test_a_prompt_far_beyond_the_models_context_is_refused_before_it_is_tokenised(
    house, client, monkeypatch, path
):
    async def post(size):
        long = "x" * size
        return await client.post(
            path, json={**GOOD[path], "prompt": [long], "messages": [{**HELLO[0], "content": long}]}
        )

    longest = LIMITS.max_model_len * max(map(len, _SPECIAL_TOKENS))
    within = await post(longest // 2)
    assert "tokens" in problem(within)["message"]
    assert "characters" not in problem(within)["message"]
    monkeypatch.setattr(Tokens, "finish", None)
    beyond = await post(longest + 1)
    for refused in (within, beyond):
        assert (refused.status_code, problem(refused)["code"]) == (400, "context_length_exceeded")
        assert problem(refused)["param"] == ("messages" if path == CHAT else "prompt")
    assert "characters" in problem(beyond)["message"]
    assert untouched(house)
    assert [one.http_status for one in house.settled] == [400, 400]


MANY = [
    (["x"] * MAX_PROMPTS, 200), ([[1]] * MAX_PROMPTS, 200), ([1] * (MAX_PROMPTS + 1), 400),
    (["x"] * (MAX_PROMPTS + 1), 400), ([[1]] * (MAX_PROMPTS + 1), 400), ([""] * 60_000, 400),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "status"), MANY)
async def test_a_request_has_so_many_prompts_and_no_more(house, client, prompt, status):
    response = await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "prompt": prompt, "max_tokens": 1})
    assert response.status_code == status
    if status == 200:
        assert len(response.json()["choices"]) == len(prompt)
        return
    assert problem(response)["param"] == "prompt"
    assert untouched(house)
    if isinstance(prompt[0], int):
        assert problem(response)["code"] == "context_length_exceeded", "these are the tokens of one prompt"
    else:
        assert f"{len(prompt)} prompts" in problem(response)["message"]
        assert str(MAX_PROMPTS) in problem(response)["message"]


@BOTH
@pytest.mark.parametrize("echo", [{}, {"echo": True}, {"echo": True, "logprobs": 1}])
async def test_a_prompt_alone_is_refused_clearly(house, client, path, echo):
    response = await client.post(path, json={**GOOD[path], **echo, "max_tokens": 0})
    assert (response.status_code, problem(response)["param"]) == (400, "max_tokens")
    assert "at least 1" in problem(response)["message"]
    assert "`echo`" in problem(response)["message"]
    assert untouched(house)


@BOTH
async def test_more_output_than_the_context_has_is_refused(house, client, path):
    response = await client.post(path, json={**GOOD[path], "max_tokens": 10**30})
    assert (response.status_code, problem(response)["code"]) == (400, "context_length_exceeded")
    assert untouched(house)


@BOTH
async def test_an_unknown_model_is_404_and_says_which_there_are(house, client, path):
    response = await client.post(path, json={**GOOD[path], "model": "gpt-4"})
    assert response.status_code == 404
    error = problem(response)
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "`gpt-4`" in error["message"]
    assert MODEL in error["message"]
    assert untouched(house)


async def test_what_only_the_engine_can_judge_is_refused_in_its_words(house, client, monkeypatch):
    refusal = {"message": "temperature must be non-negative", "type": "BadRequestError", "param": "temperature"}
    monkeypatch.setattr(
        house.engine, "_refusal", lambda *_: web.json_response({"error": {**refusal, "code": 400}}, status=400)
    )
    for stream in (False, True):
        response = await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "stream": stream})
        assert response.status_code == 400
        assert problem(response)["param"] == "temperature"
        assert problem(response)["message"] == "temperature must be non-negative"
        assert response.headers["x-request-id"] == house.settled[-1].call.request_id


async def test_a_huge_body_is_413(house, client):
    response = await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "prompt": "x" * MAX_BODY_BYTES})
    assert response.status_code == 413
    assert (problem(response)["type"], problem(response)["code"]) == ("invalid_request_error", "request_too_large")
    assert untouched(house)
    assert (await client.post(COMPLETIONS, json=GOOD[COMPLETIONS])).status_code == 200, "the connection still serves"


async def test_a_huge_body_of_unknown_length_is_413(house, client):
    async def pieces():
        for _ in range(MAX_BODY_BYTES // 1000 + 1):
            yield b" " * 1000

    response = await client.post(COMPLETIONS, content=pieces())
    assert (response.status_code, problem(response)["code"]) == (413, "request_too_large")
    assert untouched(house)


@pytest.mark.parametrize("option", ENGINE_ONLY)
async def test_a_prompt_that_only_the_engine_can_tell_is_asked_of_it(house, client, option):
    prompts = ["Once upon", [1, 2, 3], ["Once", "upon a time"], [[1, 2], [3]]]
    for prompt in prompts:
        response = await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "prompt": prompt, option: "x"})
        assert response.status_code == 200
    assert [body[option] for body in house.engine.bodies] == ["x"] * len(prompts)
    assert [one.prompt_tokens for one in house.settled] == [9, 3, 15, 3]


async def test_what_the_engine_says_against_a_prompt_is_said(house, client, monkeypatch):
    refusal = {"message": "suffix is not supported", "type": "BadRequestError", "param": "suffix", "code": 400}
    monkeypatch.setattr(house.engine, "_refusal", lambda *_: web.json_response({"error": refusal}, status=400))
    response = await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "suffix": "x"})
    assert (response.status_code, problem(response)["param"]) == (400, "suffix")
    assert problem(response)["message"] == "suffix is not supported"
    assert untouched(house)


@BOTH
@pytest.mark.parametrize("count", ["n", "max_tokens", "max_completion_tokens"])
async def test_a_count_that_is_null_is_absent(client, path, count):
    absent = {name: value for name, value in GOOD[path].items() if name != count}
    told, untold = [(await client.post(path, json=body)).json() for body in ({**absent, count: None}, absent)]
    assert told["usage"] == untold["usage"]
    assert len(told["choices"]) == 1


@pytest.mark.parametrize("prompt", ["", [""], [[]], ["x", ""]])
async def test_a_prompt_without_tokens_is_refused(house, client, prompt):
    response = await client.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "prompt": prompt})
    assert response.status_code == 400
    assert problem(response)["param"] == "prompt"
    assert untouched(house)


# --- who may ---


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
    key = next(key for key in house.keys.values() if key.tenant and key.expires_at_s is None)
    house.keys[key.id] = replace(key, revoked_at_s=1.0)
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


# --- clients that leave ---


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves_before_the_first_output_is_aborted(house, stream, leave):
    house.engine.ms_per_token = 60_000
    _, writer = await house.connect()
    writer.write(house.request({**GOOD[COMPLETIONS], "stream": stream}))
    await until(lambda: house.engine.running)
    writer.close() if leave == "close" else reset(writer)
    await house.at_rest()
    assert house.engine.aborted
    assert [(one.status, one.http_status) for one in house.settled] == [("cancelled", 499)]


async def test_a_client_that_leaves_a_stream_is_aborted(house):
    house.engine.ms_per_token = 5
    reader, writer = await house.connect()
    writer.write(house.request({**GOOD[COMPLETIONS], "stream": True, "max_tokens": 1900}))
    await reader.readuntil(b"data: ")
    writer.close()
    await house.at_rest()
    assert house.engine.generation_tokens < 1900
    assert [(one.status, one.http_status) for one in house.settled] == [("cancelled", 499)]


async def test_a_client_that_leaves_as_its_stream_begins_is_aborted(house, monkeypatch):
    """Nobody then reads any of it, and still the request must end."""
    house.engine.ms_per_token = 20
    _, writer = await house.connect()
    first_output = inference._first_output

    async def first_output_and_farewell(request, life):
        answer = await first_output(request, life)
        writer.close()
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return answer

    monkeypatch.setattr(inference, "_first_output", first_output_and_farewell)
    writer.write(house.request({**GOOD[COMPLETIONS], "stream": True, "max_tokens": 1900}))
    await until(lambda: house.settled)
    await house.at_rest()
    assert house.settled[0].status == "cancelled"
    assert house.engine.generation_tokens < 1900


async def test_a_client_that_reads_no_more_is_seen_to_leave(house):
    """The server is then stuck in writing rather than in waiting for the engine."""
    house.engine.ms_per_token = 0.01
    _, writer = await house.connect()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.transport.pause_reading()
    body = {**GOOD[COMPLETIONS], "stream": True, "max_tokens": 1900, "n": 128}
    writer.write(house.request(body))
    await until(lambda: any(one.flow.write_paused for one in house.server.server_state.connections))
    reset(writer)
    await house.at_rest()
    assert [one.http_status for one in house.settled] == [499]


async def test_a_client_that_leaves_in_its_body_costs_nothing(house):
    _, writer = await house.connect()
    writer.write(house.request(GOOD[COMPLETIONS])[:-5])
    await writer.drain()
    await until(lambda: house.server.server_state.tasks)
    writer.close()
    await until(lambda: not house.server.server_state.tasks)
    assert untouched(house)
    assert not house.settled


# --- whatever comes, the daemon never fails ---


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
READ_FIELDS = [
    "model", "messages", "prompt", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "cache_salt",
    "tools", "documents", "add_special_tokens", "add_generation_prompt", "continue_final_message", "chat_template",
    "chat_template_kwargs", "reasoning_effort", "echo", "user",
]  # fmt: skip
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "", "x"]) | JSON_VALUES,
            "content": st.text(max_size=20)
            | st.lists(st.just({"type": "text", "text": "x"}), max_size=2)
            | JSON_VALUES,
            "tool_calls": JSON_VALUES,
            "name": JSON_VALUES,
        },
    ),
    max_size=3,
)
PROMPTS = st.text(max_size=40) | st.lists(st.integers(-1, 300), max_size=5) | st.lists(st.text(max_size=5), max_size=3)
COUNTS = st.integers(max_value=3) | st.integers(min_value=10**4) | JSON_VALUES
VALUES = {
    **dict.fromkeys(READ_FIELDS, JSON_VALUES),
    **dict.fromkeys(("n", "max_tokens", "max_completion_tokens"), COUNTS),
    "messages": MESSAGES | JSON_VALUES,
    "prompt": PROMPTS | JSON_VALUES,
    "stream": st.booleans() | JSON_VALUES,
}
CHANGES = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name])), max_size=4
).map(dict)
EXAMPLES = 200
ANYTHING = (
    CHANGES
    | JSON_VALUES.map(json.dumps).map(str.encode)
    | st.binary(max_size=60)
    | st.text(string.printable, max_size=60).map(str.encode)
)


@BOTH
async def test_no_body_makes_the_daemon_fail(house, client, path):
    async def post(body):
        content = body if isinstance(body, bytes) else json.dumps({**GOOD[path], **body}).encode()
        response = await client.post(path, content=content)
        assert response.status_code < 500, (response.status_code, response.text)
        if response.status_code != 200:
            problem(response)

    loop = asyncio.get_running_loop()

    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(body=ANYTHING)
    def fuzz(body):
        asyncio.run_coroutine_threadsafe(post(body), loop).result(30)

    house.engine.ms_per_token = 0.01
    await asyncio.to_thread(fuzz)
    await house.at_rest()

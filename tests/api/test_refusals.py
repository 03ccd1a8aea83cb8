"""Bad requests to the tenants' routes: a 400 that names the field, and nothing happens; and none makes them fail."""

import asyncio
import json
import string

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.api.bodies import BOTH, CHAT, COMPLETIONS, GOOD, HELLO, untouched
from tests.api.inference_app import LIMITS, MAX_BODY_BYTES, problem
from tests.core import MODEL

from preble.daemon.engine.demo_model import _SPECIAL_TOKENS
from preble.daemon.prompt.tokens import Tokens
from preble.daemon.wire.openai import MAX_PROMPTS

ENGINE_ONLY = ["suffix", "truncate_prompt_tokens", "prompt_embeds", "kv_transfer_params"]


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

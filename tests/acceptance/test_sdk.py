"""The unchanged OpenAI package against the daemon."""

import json
import socket

import httpx
import openai
import pytest
from tests.acceptance.conftest import MODEL, wait_for
from tokenizers import Tokenizer

pytestmark = pytest.mark.engines
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
    },
}


@pytest.fixture
def sdk(daemon):
    return daemon.sdk()


def test_chat(sdk):
    answer = sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 20
    assert answer.usage.completion_tokens <= 8


def test_chat_stream_gives_the_same_text_and_no_usage_unless_asked(sdk):
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
    whole = sdk.chat.completions.create(**asked).choices[0].message.content
    chunks = list(sdk.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_options_are_the_clients(sdk):
    chunks = list(
        sdk.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens <= 8


def test_completions(sdk):
    answer = sdk.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5, temperature=0)
    assert answer.usage.prompt_tokens == len("Once upon a time")
    streamed = sdk.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_completions_take_token_ids_and_batches(sdk):
    batch = sdk.completions.create(model=MODEL, prompt=[[10, 11, 12], [13, 14, 15, 16]], max_tokens=2)
    assert [choice.index for choice in batch.choices] == [0, 1]
    assert batch.usage.prompt_tokens == 7


def test_sampling_options_reach_the_engine(sdk):
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=4,
        n=3,
        logprobs=True,
        top_logprobs=2,
        seed=7,
        temperature=1.0,
        stop=["zq"],
    )
    assert len(answer.choices) == 3
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    same = [
        sdk.completions.create(model=MODEL, prompt="seeded", max_tokens=6, seed=11, temperature=1.0).choices[0].text
        for _ in range(2)
    ]
    assert same[0] == same[1]


@pytest.fixture
def no_white_space(daemon):
    """JSON may have white space without end, and a model with random weights writes it."""
    tokenizer = Tokenizer.from_file(str(daemon.folder / "data" / "models" / "demo-v1" / "tokenizer.json"))
    return {str(tokenizer.encode(one, add_special_tokens=False).ids[0]): -100 for one in " \n\r\t"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_tools(sdk, no_white_space, choice):
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 200, "tools": [TOOL], "tool_choice": choice}
    asked |= {"temperature": 0, "logit_bias": no_white_space}
    call = sdk.chat.completions.create(**asked).choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    chunks = list(sdk.chat.completions.create(**asked, stream=True))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or () if part.index == 0]
    assert parts[0].function.name == "weather"
    assert json.loads("".join(part.function.arguments or "" for part in parts))["city"] in ("Paris", "Rome")


def test_response_format(sdk):
    schema = {"enum": ["yes", "no"]}
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=64,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content) in ("yes", "no")


def test_models(sdk):
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("unknown")


def test_response_headers_say_where_it_ran(sdk, daemon):
    raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=2)
    assert raw.headers["x-preble-gpu"] in daemon.gpus()
    assert raw.headers["x-preble-decision"] in ("exploit", "explore", "decode_heavy")
    assert int(raw.headers["x-preble-cached-tokens"]) >= 0
    assert raw.headers["x-request-id"].startswith("req_")


# --- what is wrong is refused clearly, and changes nothing ---


REFUSED_AT_ONCE = [
    ({"model": "unknown"}, 404, "model"),
    ({"n": 0}, 400, "n"),
    ({"n": "two"}, 400, "n"),
    ({"max_tokens": -5}, 400, "max_tokens"),
    ({"messages": []}, 400, "messages"),
    ({"messages": "hello"}, 400, "messages"),
    ({"stream": "yes"}, 400, "stream"),
]
REFUSED_ON_ITS_WAY = [
    ({"temperature": -1}, 400, "temperature"),
    ({"top_p": 7}, 400, "top_p"),
    ({"messages": [{"role": "user", "content": "x" * 9000}]}, 400, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 900_000}]}, 400, "messages"),
    ({"max_tokens": 100_000}, 400, "messages"),
    ({"logit_bias": {"999999": 1}}, 400, "logit_bias"),
]


@pytest.mark.parametrize(("change", "status", "param"), [*REFUSED_AT_ONCE, *REFUSED_ON_ITS_WAY])
def test_bad_fields_are_named(daemon, change, status, param):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 4, **change}
    response = post(daemon, "/v1/chat/completions", json=body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"
    request_id = response.headers["x-request-id"]
    if (change, status, param) in REFUSED_ON_ITS_WAY:
        row = wait_for(lambda: usage_rows(daemon).get(request_id), 10, "the usage row")
        assert (row["http_status"], row["output_tokens"]) == (status, 0)
    else:
        assert request_id not in usage_rows(daemon), "it never became a request"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff\xfe", b'{"a":' * 5000, b"{}"])
def test_malformed_bodies_are_refused(daemon, body):
    for path in ("/v1/chat/completions", "/v1/completions"):
        response = post(daemon, path, content=body)
        assert response.status_code == 400
        assert response.json()["error"]["message"]


def test_a_huge_body_is_refused(daemon):
    response = post(daemon, "/v1/completions", json={"model": MODEL, "prompt": "x" * 17_000_000})
    assert response.status_code == 413
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_huge_head_is_refused(daemon):
    response = post(daemon, "/v1/completions", json={}, headers={"x-filler": "x" * 70_000})
    assert response.status_code == 431


def test_a_slow_head_is_cut_off(daemon):
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
        said = b"".join(iter(lambda: connection.recv(4096), b""))  # until the server hangs up
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("key", [None, "-", "sk-nonsense", "preble_live_abcdefghijkl_" + "x" * 43])
def test_without_a_valid_key_there_is_no_service(daemon, key):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    response = httpx.post(f"{daemon.url}/v1/completions", json={"model": MODEL, "prompt": "x"}, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_unknown_routes_and_methods_have_the_same_shape(daemon):
    assert httpx.get(f"{daemon.url}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    wrong_method = httpx.get(f"{daemon.url}/v1/completions")
    assert wrong_method.status_code == 405
    assert wrong_method.json()["error"]["message"]


def post(daemon, path, *, headers=None, **body):
    authorization = {"authorization": f"Bearer {daemon.key('default')}", "content-type": "application/json"}
    return httpx.post(f"{daemon.url}{path}", headers={**authorization, **(headers or {})}, timeout=60, **body)


def usage_rows(daemon):
    with daemon.admin() as admin:
        rows = admin.get("/usage", params={"limit": 1000}).json()["rows"]
    return {row["request_id"]: row for row in rows}

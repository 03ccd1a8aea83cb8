"""The engine's HTTP interface, over a Unix socket, against the stand-in engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine.waiting import until
from tests.fake_engine import FakeEngine

from preble.daemon.engine.client import EngineClient
from preble.daemon.engine.metrics import EngineMetrics, parse
from preble.daemon.errors import EngineError, InvalidRequest


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(tmp_path / "e.sock") as engine:
        yield engine


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[EngineClient]:
    client = EngineClient(tmp_path / "e.sock")
    yield client
    await client.close()


def body(**fields: object) -> bytes:
    return json.dumps({"model": "fake", "prompt": "hello", **fields}).encode()


async def whole(client: EngineClient, request: bytes, **headers: str) -> bytes:
    async with client.stream("/v1/completions", request, headers) as response:
        assert response.status == 200
        return b"".join([chunk async for chunk in response.chunks])


async def test_bytes_go_through_unchanged(engine, client):
    answer = json.loads(await whole(client, body(max_tokens=3) + b"   ", **{"X-Request-Id": "r1"}))
    assert answer["id"] == "cmpl-r1"
    assert answer["choices"][0]["text"] == "abc"
    assert answer["usage"]["prompt_tokens"] == 5
    assert engine.headers[0]["x-request-id"] == "r1"
    assert engine.headers[0]["content-type"] == "application/json"


async def test_a_stream_comes_as_it_is_made(engine, client):
    engine.ms_per_token = 30
    async with client.stream("/v1/completions", body(max_tokens=5, stream=True), {}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        arrivals_s = [time.monotonic() async for _ in response.chunks]
    assert len(arrivals_s) >= 5
    assert arrivals_s[-1] - arrivals_s[0] > 0.1


async def test_another_reader_goes_on_where_a_cancelled_one_was(engine, client):
    engine.ms_per_token = 50
    async with client.stream("/v1/completions", body(max_tokens=4, stream=True), {}) as response:
        first = await anext(response.chunks)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(response.chunks), 0.01)
        rest = b"".join([chunk async for chunk in response.chunks])
    assert [json.loads(event[6:])["choices"][0]["text"] for event in (first + rest).split(b"\n\n")[:4]] == list("abcd")


async def test_refusals_are_responses(engine, client):
    async with client.stream("/v1/completions", body(max_tokens=0), {}) as response:
        assert response.status == 400
        error = json.loads(b"".join([chunk async for chunk in response.chunks]))["error"]
    assert error["param"] == "max_tokens"


async def test_a_body_of_megabytes(engine, client):
    await whole(client, body(prompt="x" * 3_000_000, max_tokens=1))
    assert len(engine.bodies[0]["prompt"]) == 3_000_000


async def test_many_at_once(engine, client):
    engine.ms_per_token = 5
    answers = await asyncio.gather(*(whole(client, body(max_tokens=20, stream=True)) for _ in range(300)))
    assert all(answer.endswith(b"data: [DONE]\n\n") for answer in answers)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_aborted_request_ends_regularly_with_its_usage(engine, client, stream):
    engine.ms_per_token = 10
    request = body(max_tokens=5000, stream=stream, stream_options={"include_usage": True})
    running = asyncio.create_task(whole(client, request, **{"x-request-id": "r7"}))
    await until(lambda: engine.generation_tokens > 3)
    await client.abort(["cmpl-r7-0", "nobody"])
    answer = await asyncio.wait_for(running, 1)
    assert b'"finish_reason": "abort"' in answer
    assert b'"completion_tokens": ' in answer
    assert engine.aborted == ["cmpl-r7-0", "nobody"]


async def test_leaving_early_cuts_the_connection(engine, client):
    engine.ms_per_token = 10
    async with client.stream("/v1/completions", body(max_tokens=5000, stream=True), {}) as response:
        await anext(response.chunks)
    await until(lambda: engine.disconnected == 1 and engine.running == 0)


async def test_an_engine_that_is_not_there(client):
    with pytest.raises(EngineError):
        async with client.stream("/v1/completions", body(), {}):
            pass
    with pytest.raises(EngineError):
        await client.health(timeout_s=1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dies", [True, False])
async def test_an_engine_that_breaks_off(engine, stream, dies):
    gone: list[bool] = []
    client = EngineClient(engine.socket_path, lambda: gone.append(True))
    engine.ms_per_token = 10
    running = asyncio.create_task(whole(client, body(max_tokens=5000, stream=stream)))
    await until(lambda: engine.generation_tokens > 3)
    if dies:
        await engine.die()
    else:
        engine.cut()
    with pytest.raises(EngineError):
        await asyncio.wait_for(running, 2)
    assert bool(gone) == dies
    await client.close()


async def test_a_client_outlives_its_engine(engine, client):
    await whole(client, body(max_tokens=1))
    await engine.die()
    async with FakeEngine(engine.socket_path):
        await whole(client, body(max_tokens=1))


async def test_health(engine, client):
    await client.health(timeout_s=1)
    engine.healthy = False
    with pytest.raises(EngineError, match="503"):
        await client.health(timeout_s=1)
    engine.hung = True
    with pytest.raises(EngineError):
        await client.health(timeout_s=0.05)


async def test_models_and_rendering(engine, client):
    assert await client.models() == {"fake": 8192}
    assert await client.render_chat({"model": "fake", "messages": [{"role": "user", "content": "hé"}]}) == list(
        "hé".encode()
    )
    with pytest.raises(InvalidRequest, match="valid list") as refused:
        await client.render_chat({"model": "fake", "messages": "x"})
    assert refused.value.param == "body.messages"


async def test_metrics(engine, client):
    await whole(client, body(max_tokens=3))
    assert await client.metrics() == EngineMetrics(
        block_size=32,
        kv_blocks=1000,
        running=0,
        waiting=0,
        kv_usage_ratio=0.25,
        prefix_query_tokens=5,
        prefix_hit_tokens=0,
        prompt_tokens=5,
        generation_tokens=3,
    )


def test_metrics_of_several_ranks_add_up():
    text = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="8"} 1.0\n' + "".join(
        f'vllm:num_requests_running{{engine="{rank}"}} 2.0\n' for rank in range(2)
    )
    assert parse(text).running == 4


@pytest.mark.parametrize("text", ["", 'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n'])
def test_metrics_without_a_cache_are_refused(text):
    with pytest.raises(EngineError, match="KV cache"):
        parse(text)

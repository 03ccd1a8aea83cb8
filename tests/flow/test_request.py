"""A request's life against two stand-in engines: every way it can end, each settled exactly once."""

import asyncio
import json
from time import monotonic

import msgspec
import pytest
from tests.core import CONFIG, up
from tests.flow.house import open_house, read, until

from preble.daemon.errors import EngineError, EngineFailed, InvalidRequest, TimedOut, Unavailable
from preble.daemon.flow.events import EngineDown
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.runtime import Cancelled, Runtime


@pytest.fixture
async def house():
    async with open_house() as opened:
        yield opened


def events(stream: bytes):
    return [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event]


async def test_an_answer_is_relayed_and_settled(house):
    answer = await house.life().answer()
    body = json.loads(await read(answer))
    assert body["choices"][0]["text"] == "abcde"
    assert answer.headers["x-preble-gpu"] == "a"
    (settled,) = house.settled
    assert (settled.status, settled.http_status, settled.prompt_tokens, settled.output_tokens) == (
        "finished",
        200,
        40,
        5,
    )
    assert settled.ttft_ms is None
    assert 0 <= settled.queue_ms <= settled.latency_ms


async def test_a_stream_is_relayed_without_the_usage_that_only_we_asked_for(house):
    stream = events(await read(await house.life(stream=True).answer()))
    assert stream[-1] == "[DONE]"
    texts = [json.loads(event)["choices"][0]["text"] for event in stream[:-1]]
    assert "".join(texts) == "abcde"
    (settled,) = house.settled
    assert (settled.status, settled.output_tokens, settled.cached_tokens) == ("finished", 5, 0)
    assert settled.queue_ms <= settled.ttft_ms <= settled.latency_ms


async def test_an_engines_refusal_becomes_ours_and_is_not_tried_again(house):
    with pytest.raises(InvalidRequest) as refused:
        await house.life(max_tokens=-1).answer()
    assert refused.value.param == "max_tokens"
    (settled,) = house.settled
    assert (settled.status, settled.http_status, settled.attempts, settled.output_tokens) == ("failed", 400, 1, 0)


async def test_what_cannot_be_encoded_is_never_sent(house):
    life = house.life()

    async def encode():
        raise InvalidRequest("no", param="messages")

    object.__setattr__(life._call, "encode", encode)
    with pytest.raises(InvalidRequest):
        await life.answer()
    assert house.engines["a"].bodies == []
    assert house.settled[0].http_status == 400


async def test_an_engine_that_fails_to_encode_is_named(house):
    life = house.life()

    async def encode():
        raise EngineError("gone")

    object.__setattr__(life._call, "encode", encode)
    with pytest.raises(EngineFailed, match="gone"):
        await life.answer()
    assert (house.settled[0].status, house.settled[0].http_status) == ("failed", 502)


async def test_a_request_that_our_own_mistake_ends_is_settled_too(house, monkeypatch):
    def mistaken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("preble.daemon.flow.request.usage_of", mistaken)
    with pytest.raises(ZeroDivisionError):
        await house.life().answer()
    assert (house.settled[0].status, house.settled[0].http_status) == ("failed", 500)


async def test_without_an_engine_a_request_is_refused(house):
    for gpu in house.engines:
        house.runtime.post(EngineDown(gpu=gpu))
    with pytest.raises(Unavailable):
        await house.life().answer()
    assert (house.settled[0].status, house.settled[0].http_status) == ("refused", 503)


# --- engines that fail ---


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_without_output_runs_again_on_another_engine(house, stream):
    house.engines["a"].ms_per_prompt_token = 1000
    answering = asyncio.create_task(house.life(stream=stream).answer())
    await until(lambda: house.engines["a"].running)
    house.runtime.post(EngineDown(gpu="a"))
    await house.engines["a"].die()
    answer = await answering
    assert await read(answer)
    assert answer.headers["x-preble-gpu"] == "b"
    assert (house.settled[0].status, house.settled[0].attempts) == ("finished", 2)


async def test_an_engine_is_told_who_is_light_and_who_yields(house):
    engine = house.engines["a"]
    engine.ms_per_prompt_token = 5
    config = msgspec.structs.replace(CONFIG, quantum_s=0.04, prefill_lead_tokens=32)
    house.runtime = Runtime(Machine(config), on_step_s=lambda _: None)
    house.runtime.post(up("a"))
    answers = []
    for name, lane in (("r1", "flood"), ("r2", "flood"), ("r3", "light")):
        answers.append(asyncio.create_task(house.life(name, lane=lane).answer()))
        await until(lambda: house.runtime.live_requests == len(answers))
    for answer in answers:
        await read(await answer)
    told = {headers["x-request-id"]: headers["x-vllm-priority"] for headers in engine.headers}
    assert told == {"r1": "1", "r3": "0", "r2": "2"}


async def test_a_request_that_every_engine_fails_ends_with_an_error(house):
    for engine in house.engines.values():
        await engine.die()
    with pytest.raises(EngineFailed):
        await house.life().answer()
    assert (house.settled[0].status, house.settled[0].http_status) == ("failed", 502)
    assert house.settled[0].attempts == CONFIG.max_attempts


async def test_a_stream_that_the_engine_breaks_off_ends_with_an_error_event(house):
    house.engines["a"].ms_per_token = 20
    answer = await house.life(stream=True, max_tokens=1000).answer()
    stream = b""
    async for chunk in answer.chunks:
        if not stream:
            house.engines["a"].cut()
        stream += chunk
    last = json.loads(events(stream)[-1])
    assert last["error"]["code"] == "engine_failed"
    assert "[DONE]" not in events(stream)
    (settled,) = house.settled
    assert (settled.status, settled.http_status) == ("failed", 502)
    assert settled.output_tokens >= 1, "what was relayed is counted"


# --- clients that leave ---


async def test_a_client_that_leaves_a_stream_has_it_aborted_and_its_usage_counted(house):
    house.engines["a"].ms_per_token = 5
    answer = await house.life(stream=True, max_tokens=1000).answer()
    await anext(answer.chunks)
    left_s = monotonic()
    await answer.chunks.aclose()
    await until(lambda: not house.busy)
    assert monotonic() - left_s < 1
    assert house.engines["a"].aborted[0] == "cmpl-r1-0"
    await house.at_rest()
    (settled,) = house.settled
    assert (settled.status, settled.http_status) == ("cancelled", 499)
    assert settled.output_tokens == house.engines["a"].generation_tokens


async def test_a_reader_cancelled_in_the_middle_of_a_read_is_seen_out_too(house):
    house.engines["a"].ms_per_token = 100
    answer = await house.life(stream=True, max_tokens=1000).answer()
    await anext(answer.chunks)
    reading = asyncio.create_task(anext(answer.chunks))
    await asyncio.sleep(0.01)
    reading.cancel()
    await house.at_rest()
    (settled,) = house.settled
    assert (settled.status, settled.output_tokens) == ("cancelled", house.engines["a"].generation_tokens)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_output_is_aborted(house, stream):
    house.engines["a"].ms_per_token = 200
    life = house.life(stream=stream, max_tokens=1000)
    answering = asyncio.create_task(life.answer())
    await until(lambda: house.busy)
    life.abandon(Cancelled())
    with pytest.raises(Cancelled):
        await answering
    (settled,) = house.settled
    assert (settled.status, settled.output_tokens) == ("cancelled", house.engines["a"].generation_tokens)


async def test_a_client_that_leaves_while_its_request_waits_costs_nothing(house):
    for engine in house.engines.values():
        engine.ms_per_token = 50
    running = [asyncio.create_task(house.life(name).answer()) for name in ("r1", "r2")]
    await until(lambda: len(house.busy) == 2 or sum(view.waiting for view in house.runtime.views()))
    life = house.life("r3")
    waiting = asyncio.create_task(life.answer())
    await until(lambda: any(view.waiting for view in house.runtime.views()))
    life.abandon(Cancelled())
    with pytest.raises(Cancelled):
        await waiting
    for answering in running:
        await read(await answering)
    sent = [body for engine in house.engines.values() for body in engine.bodies]
    assert len(sent) == 2
    left = next(one for one in house.settled if one.call.request_id == "r3")
    assert (left.status, left.attempts, left.prompt_tokens, left.gpu_ms) == ("cancelled", 0, 0, 0.0)


async def test_an_abort_the_engine_does_not_obey_cuts_the_connection(house, monkeypatch):
    monkeypatch.setattr("preble.daemon.flow.request._ABORT_PATIENCE_S", 0.1)
    house.engines["a"].ms_per_token = 20
    life = house.life(max_tokens=10_000)
    object.__setattr__(life._call, "engine_ids", ("nobody",))
    answering = asyncio.create_task(life.answer())
    await until(lambda: house.busy)
    life.abandon(Cancelled())
    with pytest.raises(Cancelled):
        await answering
    await until(lambda: house.engines["a"].disconnected == 1)


async def test_a_stream_whose_abort_the_engine_does_not_obey_is_cut_too(house, monkeypatch):
    monkeypatch.setattr("preble.daemon.flow.request._ABORT_PATIENCE_S", 0.1)
    house.engines["a"].ms_per_token = 20
    life = house.life(stream=True, max_tokens=10_000)
    object.__setattr__(life._call, "engine_ids", ("nobody",))
    answer = await life.answer()
    await anext(answer.chunks)
    await answer.chunks.aclose()
    await until(lambda: house.engines["a"].disconnected == 1)
    await house.at_rest()
    assert (house.settled[0].status, house.settled[0].output_tokens > 0) == ("cancelled", True)


# --- time limits ---


async def test_a_request_over_its_time_ends_with_504(house):
    house.engines["a"].ms_per_token = 50
    with pytest.raises(TimedOut):
        await house.life(timeout_s=0.1, max_tokens=1000).answer()
    assert (house.settled[0].status, house.settled[0].http_status) == ("failed", 504)


async def test_a_stream_over_its_time_ends_with_an_error_event(house):
    house.engines["a"].ms_per_token = 20
    stream = events(await read(await house.life(stream=True, timeout_s=0.15, max_tokens=1000).answer()))
    assert json.loads(stream[-1])["error"]["code"] == "timeout"
    assert "[DONE]" not in stream

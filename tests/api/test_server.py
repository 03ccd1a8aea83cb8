"""The server in front of the routes: what it lets a client's connection do, and how it ends."""

import asyncio
import json
import re
from contextlib import suppress
from time import monotonic

import httpx
import pytest
from tests.api.inference_app import DEADLINE_S, open_client, open_house, until
from tests.core import MODEL

COMPLETION = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 4}
MAX_HEADER_BYTES = 8_000
IMPATIENT = {"header_timeout_s": 0.3, "keep_alive_s": 1.0, "max_header_bytes": MAX_HEADER_BYTES}
PATIENT = {"max_header_bytes": MAX_HEADER_BYTES}
REQUEST_ID = re.compile("req_[0-9a-f]{24}")
GET_LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"


def answer_of(said: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the first answer in these bytes."""
    head, _, rest = said.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, rest


def refusal_of(said: bytes) -> tuple[int, str]:
    status, headers, body = answer_of(said)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"
    assert REQUEST_ID.fullmatch(headers["x-request-id"])
    error = json.loads(body)["error"]
    assert (error["type"], set(error)) == ("invalid_request_error", {"message", "type", "param", "code"})
    return status, error["code"]


async def hung_up(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await reader.read()


# --- heads ---


@pytest.mark.parametrize(
    "head",
    [
        GET_LIVE + b"x: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\n",
        GET_LIVE + b"x" * MAX_HEADER_BYTES + b": x\r\n\r\n",
        GET_LIVE + b"x: x\r\n" * MAX_HEADER_BYTES + b"\r\n",
        b"GET /" + b"x" * MAX_HEADER_BYTES + b" HTTP/1.1\r\n\r\n",
        GET_LIVE + b"x: " + b"x" * 5_000_000 + b"\r\n\r\n",
    ],
    ids=["value", "name", "many", "url", "far too large"],
)
async def test_a_huge_head_is_431(head):
    async with open_house(**PATIENT) as house:
        assert refusal_of(await house.raw(head)) == (431, "headers_too_large")


async def test_a_head_that_comes_in_pieces_is_counted_once():
    """Just within the limit, it must pass however it was cut; just beyond, it must not."""
    async with open_house(**PATIENT) as house:
        for filler, status in ((MAX_HEADER_BYTES - 200, 200), (MAX_HEADER_BYTES + 1, 431)):
            for size in (100, 3000, MAX_HEADER_BYTES * 2):
                reader, writer = await house.connect()
                head = GET_LIVE + b"connection: close\r\nx: " + b"x" * filler + b"\r\n\r\n"
                for start in range(0, len(head), size):
                    writer.write(head[start : start + size])
                    await asyncio.sleep(0.001)  # pieces of its own
                assert answer_of(await hung_up(reader))[0] == status
                writer.close()


async def test_a_header_that_never_ends_is_not_collected_for_ever():
    async with open_house(**PATIENT) as house:
        reader, writer = await house.connect()
        writer.write(GET_LIVE + b"x: ")
        for _ in range(MAX_HEADER_BYTES // 1000 + 1):
            await asyncio.sleep(0.001)
            writer.write(b"x" * 1000)
        assert refusal_of(await hung_up(reader)) == (431, "headers_too_large")
        writer.close()


async def test_each_request_of_a_connection_has_a_head_of_its_own():
    async with open_house(**PATIENT) as house:
        one = GET_LIVE + b"x: " + b"x" * (MAX_HEADER_BYTES // 2) + b"\r\n\r\n"
        last = GET_LIVE + b"connection: close\r\n\r\n"
        assert (await house.raw(one * 3 + last)).count(b"HTTP/1.1 200 OK") == 4


async def test_a_body_in_the_piece_of_its_head_is_no_head():
    async with open_house(**PATIENT) as house:
        body = {**COMPLETION, "user": "x" * MAX_HEADER_BYTES * 2}
        said = await house.raw(house.request(body, head="connection: close\r\n") * 2)
        assert answer_of(said)[0] == 200


@pytest.mark.parametrize(
    "nonsense",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET \xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400(nonsense):
    async with open_house() as house:
        assert refusal_of(await house.raw(nonsense)) == (400, "bad_http")


async def test_a_chunked_body_that_is_not_chunked_is_refused():
    async with open_house() as house:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nauthorization: Bearer {house.key}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        assert refusal_of(await house.raw(head.encode() + b"nonsense\r\n")) == (400, "bad_http")
        assert not house.engine.bodies


async def test_nonsense_behind_a_request_takes_no_part_in_its_answer():
    """A second answer in the middle of a stream would be read as its text."""
    async with open_house() as house:
        house.engine.ms_per_token = 5
        reader, writer = await house.connect()
        writer.write(house.request({**COMPLETION, "stream": True, "max_tokens": 1000}))
        said = await reader.readuntil(b"data: ")
        writer.write(b"hello\r\n\r\n")
        said += await hung_up(reader)
        assert said.count(b"HTTP/1.1") == 1
        writer.close()


@pytest.mark.parametrize("offer", ["websocket", "h2c"])
async def test_an_offer_of_another_protocol_is_passed_over(offer):
    """Java's HTTP client offers HTTP/2 with its first request, body and all."""
    async with open_house() as house:
        headers = f"upgrade: {offer}\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n"
        got = GET_LIVE + f"connection: upgrade\r\n{headers}\r\n".encode()
        posted = house.request(COMPLETION, head=f"connection: upgrade\r\n{headers}")
        last = GET_LIVE + b"connection: close\r\n\r\n"
        assert (await house.raw(got + posted + last)).count(b"HTTP/1.1 200 OK") == 3
        assert len(house.engine.bodies) == 1
        reader, writer = await house.connect()
        for start in range(0, len(posted), 7):
            writer.write(posted[start : start + 7])
            await asyncio.sleep(0.001)
        writer.write(last)
        assert (await hung_up(reader)).count(b"HTTP/1.1 200 OK") == 2
        assert len(house.engine.bodies) == 2
        writer.close()


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked():
    async with open_house() as house:
        head, _, body = house.request(COMPLETION, head="expect: 100-continue\r\nconnection: close\r\n").partition(
            b"\r\n\r\n"
        )
        reader, writer = await house.connect()
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert answer_of(await hung_up(reader))[0] == 200
        writer.close()


# --- clients that take their time ---


@pytest.mark.parametrize("begun", [b"G", b"GET /health/live HTTP/1.1\r\n", GET_LIVE + b"x: "])
async def test_a_slow_head_is_408(begun):
    async with open_house(**IMPATIENT) as house:
        assert refusal_of(await house.raw(begun)) == (408, "request_timeout")


@pytest.mark.parametrize("begun", [b"", b"\r\n"])
async def test_who_asks_nothing_is_cut_off_without_a_word(begun):
    """Browsers open connections for later; an answer to nothing would be taken for that of their first request."""
    async with open_house(**IMPATIENT) as house:
        assert await house.raw(begun) == b""


async def test_a_head_that_drips_is_408():
    async with open_house(**IMPATIENT) as house:
        reader, writer = await house.connect()
        writer.write(b"GET /health/live HTTP/1.1\r\nx: ")
        ended = asyncio.create_task(reader.read())
        async with asyncio.timeout(DEADLINE_S):
            while not ended.done():
                writer.write(b"x")
                await asyncio.sleep(0.05)
        assert refusal_of(await ended) == (408, "request_timeout")
        writer.close()


async def test_a_slow_second_head_is_408_too():
    async with open_house(header_timeout_s=0.3, keep_alive_s=60.0) as house:
        said = await house.raw(GET_LIVE + b"\r\n" + b"GET /heal")
        assert said.startswith(b"HTTP/1.1 200 OK")
        assert refusal_of(said[said.index(b"HTTP/1.1 408") :]) == (408, "request_timeout")
        assert len(set(REQUEST_ID.findall(said.decode()))) == 2


async def test_what_follows_a_request_and_is_none_has_an_id_of_its_own():
    async with open_house() as house:
        reader, writer = await house.connect()
        writer.write(GET_LIVE + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        _, headers, _ = answer_of(head)
        await reader.readexactly(int(headers["content-length"]))
        writer.write(b"\x16\x03\x01")
        said = await hung_up(reader)
        assert refusal_of(said) == (400, "bad_http")
        assert answer_of(said)[1]["x-request-id"] != headers["x-request-id"]
        writer.close()


async def test_a_body_that_does_not_come_is_408():
    async with open_house() as house:
        house.server.config.http.body_timeout_s = 0.3
        assert refusal_of(await house.raw(house.request(COMPLETION)[:-5])) == (408, "request_timeout")
        assert not house.engine.bodies
        assert not house.settled


async def test_a_body_that_nobody_waits_for_has_one_answer():
    """A stranger is turned away before the body is read. What is left of it is not a second request."""
    async with open_house() as house:
        house.server.config.http.body_timeout_s = 0.3
        said = await house.raw(house.request(COMPLETION).replace(b"Bearer", b"Basic")[:-5])
        assert answer_of(said)[0] == 401
        assert said.count(b"HTTP/1.1") == 1


async def test_who_is_told_and_does_not_go_is_cut_off():
    async with open_house(**IMPATIENT) as house:
        reader, writer = await house.connect()
        writer.write(b"GET /")
        assert refusal_of(await hung_up(reader)) == (408, "request_timeout")
        await until(lambda: not house.server.server_state.connections)
        writer.close()


async def test_an_idle_connection_is_kept_for_a_while_and_no_longer():
    async with open_house(**IMPATIENT) as house:
        reader, writer = await house.connect()
        writer.write(GET_LIVE + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 OK")
        ended = asyncio.create_task(hung_up(reader))
        began_s = monotonic()
        while not ended.done():
            writer.write(b"\r\n")  # an empty line is no sign of life
            await asyncio.sleep(0.05)
        with suppress(ConnectionResetError):  # by what was written after the end
            await ended
        assert monotonic() - began_s >= IMPATIENT["keep_alive_s"] * 0.9
        writer.close()


async def test_a_slow_answer_is_not_a_slow_client():
    async with open_house(header_timeout_s=0.2, keep_alive_s=1.0) as house, open_client(house) as client:
        house.engine.ms_per_token = 500
        response = await client.post("/v1/completions", json=COMPLETION)
        assert response.status_code == 200


async def test_a_connection_serves_many_requests():
    async with open_house() as house, open_client(house) as client:
        for _ in range(3):
            assert (await client.post("/v1/completions", json=COMPLETION)).status_code == 200
            assert (await client.post("/v1/completions", content=b"{")).status_code == 400
            assert (await client.get("/nothing")).status_code == 404
        assert len(house.server.server_state.connections) == 1


# --- the end ---


async def test_an_open_stream_may_finish_when_the_server_ends():
    async with open_house() as house, open_client(house) as client:
        house.engine.ms_per_token = 20
        async with client.stream("POST", "/v1/completions", json={**COMPLETION, "stream": True, "max_tokens": 20}) as r:
            lines = r.aiter_lines()
            await anext(lines)
            house.server.should_exit = True
            await until(lambda: not house.server.servers[0].is_serving())
            with pytest.raises(httpx.TransportError):
                async with httpx.AsyncClient(base_url=house.base_url, trust_env=False) as late:
                    await late.get("/health/live")
            said = [line async for line in lines]
        assert "data: [DONE]" in said
        assert [one.status for one in house.settled] == ["finished"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answered", [False, True])
async def test_what_takes_too_long_when_the_server_ends_is_cut_off_told_and_settled(caplog, stream, answered):
    async with open_house(drain_timeout_s=1.0) as house:
        house.engine.ms_per_token = 20 if answered else 600_000
        reader, writer = await house.connect()
        writer.write(house.request({**COMPLETION, "stream": stream, "max_tokens": 1900}))
        await until(lambda: house.engine.running)
        said = await reader.readuntil(b"data: ") if stream and answered else b""
        house.server.should_exit = True
        said += await hung_up(reader)
        await house.at_rest()
        assert [(one.status, one.http_status) for one in house.settled] == [("refused", 503)]
        assert house.engine.aborted
        status, headers, body = answer_of(said)
        if stream and answered:
            assert status == 200
            assert b"[DONE]" not in body
            error = body.rpartition(b"data: ")[2].partition(b"\n\n")[0]
        else:
            assert (status, headers["connection"]) == (503, "close")
            assert int(headers["retry-after"]) >= 1
            error = body
        assert json.loads(error)["error"]["code"] == "shutting_down"
        assert "Traceback" not in caplog.text
        writer.close()


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end():
    async with open_house(drain_timeout_s=1.0) as house:
        house.engine.ms_per_token = 0.01
        _, writer = await house.connect()
        writer.transport.pause_reading()
        writer.write(house.request({**COMPLETION, "stream": True, "max_tokens": 1900, "n": 128}))
        await until(lambda: any(cycle.flow.write_paused for cycle in house.server.server_state.connections))
        house.server.should_exit = True
        await house.at_rest()
        assert [one.http_status for one in house.settled] == [503]
        writer.close()

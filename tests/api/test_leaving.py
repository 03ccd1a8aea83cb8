"""Clients that leave, at every moment of their request: it is aborted, settled once, and gives everything back."""

import socket

import pytest
from tests.api.bodies import COMPLETIONS, GOOD, untouched
from tests.api.inference_app import reset, until

from preble.daemon.api import inference


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

"""Engines and daemons that are killed, drained and restarted, under load."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from tests.acceptance.conftest import MODEL, is_running, wait_for

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]


def state(daemon, gpu):
    return daemon.gpus()[gpu]["state"]


def test_drained_gpus_get_nothing_and_come_back(daemon):
    one, other = daemon.gpus()
    daemon.cli("gpu", "drain", one)
    try:
        assert state(daemon, one) == "draining"
        placed = [
            daemon.sdk()
            .completions.with_raw_response.create(model=MODEL, prompt=f"{number} drained", max_tokens=1)
            .headers["x-preble-gpu"]
            for number in range(6)
        ]
        assert set(placed) == {other}
    finally:
        daemon.cli("gpu", "undrain", one)
    assert state(daemon, one) == "ready"


@pytest.mark.timeout(600)
def test_an_engine_killed_under_load_loses_nothing_that_had_no_output(daemon):
    """Streams that had begun end with a clear error; everything else is answered, on the other engine.

    On a machine that pauses, all streams may have ended before the engine is killed: then it is killed again.
    """
    assert any(kill_under_load(daemon) for _ in range(3)), "the engine never died in the middle of a stream"
    assert daemon.sdk().completions.create(model=MODEL, prompt="still there?", max_tokens=1).usage


def kill_under_load(daemon) -> bool:
    """Kill the engine of the first stream that is well under way; whether that cut a stream."""
    pids = {gpu: row["pid"] for gpu, row in daemon.gpus().items()}
    restarts = {gpu: row["restarts"] for gpu, row in daemon.gpus().items()}
    killed: list[str] = []

    def streamed(number: int) -> str:
        story = {"prompt": f"{number} " + "long story " * 40, "max_tokens": 3000, "extra_body": {"ignore_eos": True}}
        try:
            raw = daemon.sdk().completions.with_raw_response.create(model=MODEL, stream=True, **story)
            for count, _ in enumerate(raw.parse()):
                if count == 5 and not killed:
                    killed.append(raw.headers["x-preble-gpu"])
                    os.kill(pids[killed[0]], signal.SIGKILL)
        except openai.APIError as error:
            return f"error: {error.message}"
        return "whole"

    def whole(number: int) -> int:
        answer = daemon.sdk().completions.create(
            model=MODEL, prompt=f"{number} not streamed", max_tokens=60, extra_body={"ignore_eos": True}
        )
        return answer.usage.completion_tokens

    with ThreadPoolExecutor(32) as clients:
        streams = [clients.submit(streamed, number) for number in range(8)]
        answers = [clients.submit(whole, number) for number in range(24)]
        assert [answer.result(120) for answer in answers] == [60] * 24
        ends = [stream.result(120) for stream in streams]
    assert all(end == "whole" or "engine" in end for end in ends), ends
    gpu = killed[0]
    wait_for(
        lambda: (row := daemon.gpus()[gpu])["restarts"] > restarts[gpu] and row["state"] == "ready", 120, "it back"
    )
    return any(end != "whole" for end in ends)


def test_an_operator_can_restart_an_engine(daemon):
    gpu, before = next(iter(daemon.gpus().items()))
    daemon.cli("gpu", "restart", gpu)
    wait_for(lambda: state(daemon, gpu) == "ready", 120, "the engine to be back", pause_s=0.25)
    assert daemon.gpus()[gpu]["pid"] != before["pid"]


@pytest.mark.last
def test_nothing_is_left_of_a_daemon_that_is_killed(daemon):
    """The one that all tests here have shared: it has served them, and has seen engines die and come back."""
    below = daemon.engine_pids()
    assert len(below) >= 6, "two guards with an engine each, of several processes"
    daemon.process.kill()
    daemon.process.wait()
    wait_for(lambda: not any(map(is_running, below)), 5, "every engine process to end")

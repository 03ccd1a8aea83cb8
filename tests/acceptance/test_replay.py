"""What the real daemon decided under load is decided again, to the last digit, from what it recorded until its end."""

import json
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest
from tests.acceptance.conftest import MODEL, RunningDaemon, is_running, start_daemon, wait_for

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]
REQUESTS = 80
LAST_TOKENS = 300


@dataclass(frozen=True)
class Ended:
    """A daemon that was told to end in the middle of a request, and what came of that."""

    daemon: RunningDaemon
    below: set[int]
    """The processes that it had."""
    finish: str | None
    """Why the request's answer ended."""
    status: int
    """Of the daemon's exit."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, demo_model):
    """A daemon of its own, for a recording begins with the daemon: it was under load, then with a GPU drained."""
    running = start_daemon(tmp_path_factory.mktemp("r"), "--record-events", "events", demo=demo_model)
    try:
        running.wait_ready()
        with ThreadPoolExecutor(12) as clients:
            list(clients.map(lambda number: ask(running, number), range(REQUESTS)))
        running.cli("gpu", "drain", "cpu0")
        ask(running, 1)
        wait_for(lambda: all(row["running"] == 0 for row in running.gpus().values()), 30, "idle engines")
        yield ended(running)
    finally:
        running.stop()


def ended(running: RunningDaemon) -> Ended:
    below = running.engine_pids()
    story = {"prompt": "finish me", "max_tokens": LAST_TOKENS, "extra_body": {"ignore_eos": True}}
    with running.sdk().completions.create(model=MODEL, stream=True, **story) as stream:
        seen = iter(stream)
        next(seen)
        running.process.send_signal(signal.SIGTERM)
        finish = [event.choices[0].finish_reason for event in seen][-1]
    return Ended(running, below, finish, running.process.wait(30))


def ask(daemon, number: int) -> None:
    """Some prefixes come again; some clients leave; some answers are streamed."""
    prefix = "".join(random.Random(number % 9).choices("abcdefgh ", k=1500))
    request = {"model": MODEL, "prompt": f"{prefix} {number}", "max_tokens": 5 + number % 60}
    client = daemon.sdk()
    if number % 5 == 0:
        request["max_tokens"] = 2000
        with client.completions.create(**request, stream=True, extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
    elif number % 2 == 0:
        list(client.completions.create(**request, stream=True))
    else:
        client.completions.create(**request)


def test_sigterm_lets_a_running_request_finish_and_ends_everything(recorded):
    assert recorded.finish == "length", f"all of its {LAST_TOKENS} tokens"
    assert recorded.status == 0
    assert not any(map(is_running, recorded.below))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{recorded.daemon.url}/health/live")


def test_the_live_daemons_decisions_are_decided_again(recorded):
    replayed = json.loads(recorded.daemon.cli("replay", "events", "--json").stdout)
    assert replayed["first_difference"] is None
    assert replayed["decisions"] == replayed["equal_decisions"] >= REQUESTS + 2
    assert replayed["steps"] == replayed["equal_steps"] > 3 * REQUESTS, "arrivals, reports and ends"
    assert not replayed["cut_off"]

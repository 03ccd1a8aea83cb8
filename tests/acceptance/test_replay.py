"""What the real daemon decided under load is decided again, to the last digit, from what it recorded."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.acceptance.conftest import MODEL, start_daemon, wait_for

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]
REQUESTS = 80


@pytest.fixture
def recording(tmp_path):
    """A daemon of its own, for a recording begins with the daemon."""
    running = start_daemon(tmp_path, "--record-events", "events")
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


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


def test_the_live_daemons_decisions_are_decided_again(recording):
    with ThreadPoolExecutor(12) as clients:
        list(clients.map(lambda number: ask(recording, number), range(REQUESTS)))
    drained = recording.cli("gpu", "drain", "cpu0")
    assert drained.returncode == 0
    ask(recording, 1)
    wait_for(lambda: all(row["running"] == 0 for row in recording.gpus().values()), 30, "idle engines")
    recording.stop()
    replayed = json.loads(recording.cli("replay", "events", "--json").stdout)
    assert replayed["first_difference"] is None
    assert replayed["decisions"] == replayed["equal_decisions"] >= REQUESTS + 1
    assert replayed["steps"] == replayed["equal_steps"] > 3 * REQUESTS, "arrivals, reports and ends"
    assert not replayed["cut_off"]

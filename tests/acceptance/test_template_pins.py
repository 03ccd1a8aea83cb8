"""Warmed and pinned templates on real engines, whose caches hold 20 of the templates that 200 compete with."""

import json
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
from tests.acceptance.conftest import MODEL, RunningDaemon, start_daemon, wait_for

pytestmark = pytest.mark.engines
BLOCK, KV_BLOCKS, PER_GPU = 32, 320, 10
TOKENS = BLOCK * KV_BLOCKS // PER_GPU
"""Of a template, so that ten fill a GPU."""
LONG_TOKENS = 4000
PINNED = ("pinned-0", "pinned-1")
WARM_DEADLINE_S, RESTART_DEADLINE_S = 30.0, 120.0


class Small:
    """A daemon with small caches, which a test may start again."""

    def __init__(self, folder):
        self.folder = folder
        self.daemon: RunningDaemon | None = None

    def start(self, demo=None):
        self.daemon = start_daemon(self.folder, model=f"kv_blocks = {KV_BLOCKS}\n", demo=demo)
        self.daemon.wait_ready()

    def template(self, *arguments):
        return json.loads(self.daemon.cli("template", *arguments, "--tenant", "default", "--json").stdout)

    def register(self, name, n_tokens):
        path = self.folder / f"{name}.txt"
        path.write_text(text_of(name, n_tokens) + "{{question}}")
        self.template("register", str(path))

    def ask(self, text, **more):
        return self.daemon.sdk().completions.create(model=MODEL, prompt=text, max_tokens=1, **more)

    def gpu_of_another(self, number):
        """Where one more of those that compete ran."""
        completions = self.daemon.sdk().completions.with_raw_response
        prompt = text_of(f"other-{number}", TOKENS)
        return completions.create(model=MODEL, prompt=prompt, max_tokens=1).headers["x-preble-gpu"]

    def ttft_s(self, text):
        began_s = time.monotonic()
        for _ in self.ask(text, stream=True):
            return time.monotonic() - began_s

    def is_warm(self, name, times=1):
        with self.daemon.admin() as admin:
            [row] = admin.get(f"/templates/{name}/pins", params={"tenant": "default"}).json()["rows"]
        return [place["state"] for place in row["places"]].count("warm") >= times

    def wait_warm(self, name, times=1):
        wait_for(lambda: self.is_warm(name, times), WARM_DEADLINE_S, f"{name} to be warm")


def text_of(name, n_tokens):
    """One token per letter; no two begin alike."""
    return (f"{name}: what this shop wants to be said to those who write to it. " * n_tokens)[:n_tokens]


def is_each_filled_twice(small, ran_on):
    """An engine that is slow, since others use its cores, rightly gets few: what it holds may stay for long."""
    counts = Counter(ran_on)
    return all(counts[gpu] >= 2 * PER_GPU for gpu in small.daemon.gpus())


@pytest.fixture(scope="module")
def small(tmp_path_factory, demo_model):
    running = Small(tmp_path_factory.mktemp("pins"))
    try:
        running.start(demo_model)
        yield running
    finally:
        running.daemon.stop()


def test_the_first_request_of_a_warmed_template_answers_at_least_three_times_sooner(small):
    cold, warm = [], []
    for number in range(4):
        cold.append(small.ttft_s(text_of(f"cold-{number}", LONG_TOKENS) + "Why?"))
        name = f"warm-{number}"
        small.register(name, LONG_TOKENS)
        [row] = small.template("warm", name)["rows"]
        assert row["state"] == "warm"
        warm.append(small.ttft_s(text_of(name, LONG_TOKENS) + "Why?"))
    assert median(cold) >= 3 * median(warm), (cold, warm)


def test_what_is_pinned_stays_while_200_templates_compete_for_a_cache_that_holds_20(small):
    for name in PINNED:
        small.register(name, TOKENS)
        small.template("pin", name)
    for name in PINNED:
        small.wait_warm(name)
    small.register("loser", TOKENS)
    small.template("warm", "loser")
    small.ask(text_of("loser", TOKENS) + "Why?")
    kept = looked = 0
    ran_on: list[str] = []
    with ThreadPoolExecutor(4) as clients:
        while len(ran_on) < 200 or not is_each_filled_twice(small, ran_on):
            ran_on += clients.map(small.gpu_of_another, range(len(ran_on), len(ran_on) + 20))
            kept += sum(small.is_warm(name) for name in PINNED)
            looked += len(PINNED)
    assert kept >= 0.8 * looked, (kept, looked)
    for name in PINNED:
        small.wait_warm(name)
        answer = small.ask(text_of(name, TOKENS) + "Why?")
        assert answer.usage.prompt_tokens_details.cached_tokens == TOKENS
    oldest = small.ask(text_of("other-0", TOKENS) + "Why?")
    assert oldest.usage.prompt_tokens_details.cached_tokens < TOKENS
    wait_for(lambda: small.template("stats", "loser"), WARM_DEADLINE_S, "the plain text to be counted")
    [row] = small.template("stats", "loser")
    assert (row["requests"], row["warm_on"]) == (1, [])
    assert row["evictions"] >= 1


def test_what_is_pinned_is_warm_again_after_its_engine_was_killed_and_the_daemon_restarted(small):
    name = PINNED[0]
    small.template("pin", name, "--replicas", "2")
    small.template("unpin", PINNED[1])
    small.wait_warm(name, 2)
    gpus = small.daemon.gpus()
    os.kill(gpus["cpu1"]["pid"], signal.SIGKILL)
    wait_for(lambda: not small.is_warm(name, 2), RESTART_DEADLINE_S, "the engine to be missed")
    wait_for(lambda: small.is_warm(name, 2), RESTART_DEADLINE_S, "the engine to be warm again")
    before = small.template("stats", "loser")
    assert small.daemon.stop() == 0
    small.start()
    assert small.template("stats", "loser") == before
    small.wait_warm(name, 2)
    answer = small.ask(text_of(name, TOKENS) + "Why?")
    assert answer.usage.prompt_tokens_details.cached_tokens == TOKENS

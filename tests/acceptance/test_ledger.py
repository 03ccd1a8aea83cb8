"""The ledger adds up to what the engines themselves have counted, whatever became of the requests."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import openai
import pytest
from tests.acceptance.conftest import MODEL, wait_for

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]

COUNTERS = {
    "prompt_tokens": "vllm:prompt_tokens_total",
    "cached_tokens": "vllm:prompt_tokens_cached_total",
    "output_tokens": "vllm:generation_tokens_total",
}
DOCUMENT = "A document that many ask about. " * 12
LONG = {"max_tokens": 3000, "extra_body": {"ignore_eos": True}}
LEFT_AFTER = 7
"""Events."""


@dataclass
class Seen:
    """What a client saw of its request; without an id it was never answered."""

    request_id: str | None = None
    n: int = 1
    events: int = 0
    cut: bool = False


class Load:
    """Requests of all kinds. Those with several sequences or prompts have none that is as long as a block: of what was
    cached for such requests, engines tell only a part."""

    def __init__(self, daemon, name, *, streamed_tokens=60, kill=None):
        """`kill` is told the GPU of the first stream that is well under way."""
        self.daemon = daemon
        self.name = name
        self.streamed_tokens = streamed_tokens
        self.kill = kill

    def run(self) -> list[Seen]:
        kinds = (self.chat, self.streamed, self.left, self.given_up, self.several, self.prompts, self.completion)
        with ThreadPoolExecutor(16) as clients:
            sent = [clients.submit(kind, number) for number in range(8) for kind in kinds]
            return [each.result(180) for each in sent]

    def completion(self, number):
        prompt = f"{self.name} {DOCUMENT} {number % 3}"
        return self._whole(prompt=prompt, max_tokens=20 + number)

    def several(self, number):
        return self._whole(prompt=f"{self.name} {number}", max_tokens=15, n=3)

    def prompts(self, number):
        return self._whole(prompt=[f"{self.name} {number} {which}" for which in "abc"], max_tokens=10)

    def _whole(self, **body):
        answer = self.daemon.sdk().completions.with_raw_response.create(model=MODEL, **body)
        assert answer.parse().usage.completion_tokens > 0
        return Seen(answer.headers["x-request-id"], n=body.get("n", 1))

    def chat(self, number):
        messages = [{"role": "system", "content": f"{self.name} {DOCUMENT}"}, {"role": "user", "content": str(number)}]
        answer = self.daemon.sdk().chat.completions.with_raw_response.create(
            model=MODEL, messages=messages, max_tokens=25
        )
        return Seen(answer.headers["x-request-id"])

    def streamed(self, number):
        body = {**LONG, "max_tokens": self.streamed_tokens}
        return self._stream(f"{self.name} {DOCUMENT} {number} to the end", **body)

    def left(self, number):
        """Its client leaves in the middle."""
        return self._stream(f"{self.name} {DOCUMENT} {number} and away", leave_after=LEFT_AFTER + number, **LONG)

    def given_up(self, number):
        """Its client waits in vain, and leaves."""
        try:
            self.daemon.sdk().with_options(timeout=1.5).completions.create(
                model=MODEL, prompt=f"{self.name} {DOCUMENT} {number} in vain", **LONG
            )
        except openai.APITimeoutError:
            return Seen()
        raise AssertionError("3000 tokens in 1.5 s")

    def _stream(self, prompt, leave_after=None, **body):
        answer = self.daemon.sdk().completions.with_raw_response.create(model=MODEL, prompt=prompt, stream=True, **body)
        seen = Seen(answer.headers["x-request-id"])
        stream = answer.parse()
        try:
            for _ in stream:
                seen.events += 1
                if self.kill is not None and seen.events == 5:
                    kill, self.kill = self.kill, None
                    kill(answer.headers["x-preble-gpu"])
                if seen.events == leave_after:
                    stream.close()
                    break
        except openai.APIError:
            seen.cut = True
        return seen


class Ledger:
    """The rows since it was made, and what the engines counted meanwhile."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.since = datetime.now(UTC).isoformat()
        self.before = {gpu: self.counted(gpu) for gpu in daemon.gpus()}

    def counted(self, gpu):
        metrics = self.daemon.engine_metrics(gpu)
        return {name: round(metrics[counter]) for name, counter in COUNTERS.items()}

    def rows(self):
        with self.daemon.admin() as admin:
            return admin.get("/usage", params={"since": self.since, "limit": 1000}).json()["rows"]

    def settled(self, number):
        """All rows, once there are so many."""
        wait_for(lambda: len(self.rows()) >= number, 60, f"{number} requests to be settled")
        rows = self.rows()
        assert len(rows) == len({row["request_id"] for row in rows}) == number
        return rows

    def assert_is_what_was_counted(self, gpu, rows, seen):
        """By an engine that has lived since. It counts a prompt for each of its sequences, the ledger once."""
        n_of = {each.request_id: each.n for each in seen}
        own = [row for row in rows if row["gpu"] == gpu]
        wanted = {
            "prompt_tokens": sum(row["prompt_tokens"] * n_of.get(row["request_id"], 1) for row in own),
            "cached_tokens": sum(row["cached_tokens"] or 0 for row in own),
            "output_tokens": sum(row["output_tokens"] for row in own),
        }
        counted = {name: count - self.before[gpu][name] for name, count in self.counted(gpu).items()}
        assert counted == wanted, f"of {gpu}"

    def assert_sums(self, rows):
        """Those by hour, over HTTP and on the command line, are the rows'."""
        with self.daemon.admin() as admin:
            for by in ("tenant", "key", "model", "hour", "day", "month"):
                totals = admin.get("/usage", params={"since": self.since, "by": by}).json()["totals"]
                for name in ("prompt_tokens", "cached_tokens", "output_tokens"):
                    assert sum(each[name] for each in totals) == sum(row[name] or 0 for row in rows)
                assert sum(each["requests"] for each in totals) == len(rows)
                in_rows_ms, rounded_ms = sum(row["gpu_ms"] for row in rows), 0.0005 * len(rows)  # to µs in the sums
                assert sum(each["gpu_ms"] for each in totals) == pytest.approx(in_rows_ms, abs=rounded_ms)


@pytest.mark.timeout(600)
def test_the_ledger_is_what_the_engines_have_counted(daemon):
    """First both live. Then one is killed, and with it go its counters: until it was last read, while it was at rest,
    the ledger is what it had counted; the streams that it cut off have in the ledger what their clients got; and all
    else is what the other engine counted.
    """
    ledger, gpus = Ledger(daemon), daemon.gpus()
    seen = Load(daemon, "first").run()
    rows = ledger.settled(len(seen))
    for gpu in gpus:
        ledger.assert_is_what_was_counted(gpu, rows, seen)
    ledger.assert_sums(rows)
    assert {row["status"] for row in rows} == {"finished", "cancelled"}
    assert sum(row["cached_tokens"] or 0 for row in rows) > 0
    assert all(row["gpu_ms"] > 0 for row in rows if row["output_tokens"])

    killed = []

    def kill(gpu):
        killed.append(gpu)
        os.kill(gpus[gpu]["pid"], signal.SIGKILL)

    more = Load(daemon, "second", streamed_tokens=1500, kill=kill).run()
    rows = ledger.settled(len(seen) + len(more))
    (dead,) = killed
    for gpu in gpus.keys() - {dead}:
        ledger.assert_is_what_was_counted(gpu, rows, seen + more)
    ledger.assert_sums(rows)
    by_id = {row["request_id"]: row for row in rows}
    cut = [each for each in more if each.cut]
    for each in cut:
        row = by_id[each.request_id]
        assert (row["gpu"], row["status"], row["output_tokens"]) == (dead, "failed", each.events)
        assert row["gpu_ms"] > 0
    assert cut, "the engine died with nothing under way"
    wait_for(lambda: daemon.gpus()[dead]["state"] == "ready", 120, "the engine to be back")

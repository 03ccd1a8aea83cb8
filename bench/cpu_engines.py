"""Two real CPU engines behind a real daemon, and a load for them: what fit_cpu.py, validate.py and real.py share.

Clients are in this process and reach the daemon over loopback. A request's times count from when it was to be sent, not
from when this process got round to it.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import msgspec
import numpy as np
import psutil
from cpu_watch import BUSY_CORES, Watch

from preble.daemon.engine.demo_model import ensure_demo_model
from preble.daemon.errors import PrebleError
from preble.daemon.ids import GpuId, TenantName
from preble.daemon.sim.demand import DEFAULT_TENANT
from preble.daemon.sim.prompts import token_ids
from preble.daemon.sim.types import Outcome, SimRequest
from preble.daemon.wire.accounts import KeyCreated
from preble.daemon.wire.client import AdminClient

MODEL = "preble-demo"
BLOCK_TOKENS = 32
MAX_NUM_SEQS = 64
MAX_NUM_BATCHED_TOKENS = 2048
MAX_MODEL_LEN = 8192
START_DEADLINE_S = 240
STOP_DEADLINE_S = 60
REQUEST_DEADLINE_S = 120
SETTLE_S = 1.0
"""After a load, until the daemon has heard that the caches are empty and has booked all requests."""
TRIES = 3
QUIET_LOOK_S = 1.5
QUIET_PATIENCE_S = 120.0
"""So long a run waits for others to be done."""

CONFIG = f"""
data_dir = "data"
[server]
port = {{port}}
drain_timeout_s = 5.0
[scheduler]
policy = "{{policy}}"
fairness = "{{fairness}}"
[log]
level = "warning"
[[models]]
name = "{MODEL}"
path = "demo"
hardware = "cpu"
engines = 2
block_size = {BLOCK_TOKENS}
max_num_seqs = {MAX_NUM_SEQS}
max_num_batched_tokens = {{step_tokens}}
max_model_len = {MAX_MODEL_LEN}
kv_blocks = {{kv_blocks}}
extra_args = {{engine_args}}
"""


# --- the daemon ---


@dataclass(frozen=True)
class Daemon:
    """One that runs, with its engines ready."""

    url: str
    data_dir: Path
    pid: int

    def key(self, tenant: str) -> str:
        """Of the tenant that is always there, or of one that is made now."""
        if tenant == DEFAULT_TENANT:
            return (self.data_dir / f"{tenant}.key").read_text().strip()
        with AdminClient(self.url, (self.data_dir / "operator.key").read_text().strip()) as client:
            client.create_tenant(tenant)
            created = client.create_key(tenant, {"name": "bench"})
        assert isinstance(created, KeyCreated)
        assert created.key is not None
        return created.key

    def sockets(self) -> list[Path]:
        """The engines' own."""
        return sorted((self.data_dir / "run").glob("cpu*.sock"))

    def forget(self) -> None:
        """Empty the engines' prefix caches; nothing may be running.

        An engine tells of it with its next step, so each is given one: else the daemon would place by what was there.
        """
        one_step = {"model": MODEL, "prompt": [5], "max_tokens": 1}
        for path in self.sockets():
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=10) as client:
                client.post("http://engine/reset_prefix_cache").raise_for_status()
                client.post("http://engine/v1/completions", json=one_step).raise_for_status()


@contextmanager
def serving(
    workshop: Path,
    *,
    policy: str = "e2",
    fairness: str = "d2lpm",
    kv_blocks: int = 0,
    step_tokens: int = MAX_NUM_BATCHED_TOKENS,
    engine_args: Sequence[str] = (),
) -> Iterator[Daemon]:
    """A fresh daemon on two fresh engines of the demo model, whose files in `workshop` stay.

    A step has at most `step_tokens`.
    """
    shutil.rmtree(workshop / "data", ignore_errors=True)
    model = ensure_demo_model(workshop, lambda text: print(text, file=sys.stderr))
    (workshop / "data").mkdir(mode=0o700)
    (workshop / "data/models").symlink_to(model.parent)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = CONFIG.format(
        port=port,
        policy=policy,
        fairness=fairness,
        kv_blocks=kv_blocks,
        step_tokens=step_tokens,
        engine_args=json.dumps(list(engine_args)),
    )
    (workshop / "preble.toml").write_text(config)
    with (workshop / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "preble.daemon.cli.main", "serve"],
            cwd=workshop,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "VLLM_SERVER_DEV_MODE": "1"},  # for reset_prefix_cache
        )
    daemon = Daemon(f"http://127.0.0.1:{port}", workshop / "data", process.pid)
    try:
        _wait_ready(daemon, process, workshop / "daemon.log")
        yield daemon
    finally:
        _stop(process)


@contextmanager
def serving_each(workshop: Path, ways: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Daemon]]:
    """A daemon for each of several ways to call `serving`, all of them at once and idle until they are used.

    What is played on them in turn finds them equally warm, and a machine whose speed drifts about the same.
    """
    with ExitStack() as stack:
        daemons = {}
        for number, (name, options) in enumerate(ways.items()):
            place = workshop / str(number)
            place.mkdir()
            daemons[name] = stack.enter_context(serving(place, **options))
        yield daemons


def _wait_ready(daemon: Daemon, process: subprocess.Popen, log: Path) -> None:
    end_s = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise SystemExit(f"the daemon ended: {log.read_text()[-3000:]}")
        try:
            operator = (daemon.data_dir / "operator.key").read_text().strip()
            with AdminClient(daemon.url, operator) as client:
                if all(row.state == "ready" for row in client.gpus()):
                    return
        except (OSError, PrebleError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"the engines were not ready within {START_DEADLINE_S} s: {log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen) -> None:
    """As an operator would; by force, with everything below it, if it does not obey."""
    if process.poll() is not None:
        return
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in below:
        if child.is_running():
            child.kill()


# --- clients ---


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict | None = None


_event = msgspec.json.Decoder(_Event)


class Load:
    """Plays requests on a daemon as a simulation would play them on its engines, sessions and all."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._outcomes: list[Outcome] = []
        self._answers: dict[int, list[int]] = {}
        """What the engine really said, by the content number that later prompts of the session have for it."""
        self._keys: dict[TenantName, str] = {}
        self._start_s = 0.0

    async def play(self, requests: Iterable[SimRequest]) -> list[Outcome]:
        """All of them, to the end; outcomes in the order of ends."""
        todo = [(request, None if request.session else self._body(request)) for request in requests]
        self._keys = {tenant: self._daemon.key(tenant) for tenant in {request.tenant for request, _ in todo}}
        headers = {"content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=REQUEST_DEADLINE_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
            self._start_s = time.perf_counter() + 0.2
            async with asyncio.TaskGroup() as clients:
                for request, body in todo:
                    clients.create_task(self._client(http, request, body))
        return self._outcomes

    async def _client(self, http: aiohttp.ClientSession, request: SimRequest, body: bytes | None) -> None:
        """One request, or one session."""
        session, at_s, returned = request.session, request.at_s, False
        while True:
            await asyncio.sleep(self._start_s + at_s - time.perf_counter())
            outcome = await self._ask(http, request, body or self._body(request), at_s)
            self._outcomes.append(replace(outcome, returned=returned))
            following = next(session, None) if session is not None and outcome.complete else None
            if following is None:
                return
            at_s, returned = outcome.ended_s + following.at_s, request.calls_tools
            request, body = following, None

    def _body(self, request: SimRequest) -> bytes:
        prompt: list[int] = []
        for piece in request.prompt:
            prompt += self._answers.get(piece.content) or token_ids([piece]).tolist()
        body = {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": request.session is not None,
        }
        return msgspec.json.encode(body)

    async def _ask(self, http: aiohttp.ClientSession, request: SimRequest, body: bytes, at_s: float) -> Outcome:
        first_s: float | None = None
        raw, head = b"", {}
        try:
            key = {"authorization": f"Bearer {self._keys[request.tenant]}"}
            async with http.post(f"{self._daemon.url}/v1/completions", data=body, headers=key) as response:
                head = response.headers
                async for some in response.content.iter_any():
                    first_s = first_s or time.perf_counter() - self._start_s
                    raw += some
                whole = response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            whole = False
        ended_s = time.perf_counter() - self._start_s
        usage, said = _read(raw) if whole else (None, [])
        if request.session is not None:
            self._answers[request.output_content] = said
        return Outcome(
            request_id=request.request_id,
            tenant=request.tenant,
            gpu=GpuId(head["x-preble-gpu"]) if usage else None,
            arrived_s=at_s,
            dispatched_s=None,
            first_token_s=first_s if usage else None,
            ended_s=ended_s,
            prompt_tokens=usage.prompt_tokens if usage else request.prompt_tokens,
            predicted_tokens=int(head["x-preble-cached-tokens"]) if usage else 0,
            cached_tokens=usage.prompt_tokens_details.cached_tokens if usage and usage.prompt_tokens_details else 0,
            output_tokens=usage.completion_tokens if usage else 0,
            complete=usage is not None and usage.completion_tokens == request.output_tokens,
        )


def _read(stream: bytes) -> tuple[_Usage | None, list[int]]:
    """The usage, if the stream ended well, and the answer's tokens."""
    usage, said = None, []
    for line in stream.split(b"\n\n"):
        if line.startswith(b"data: {"):
            event = _event.decode(line[6:])
            if event.error is not None:
                return None, []
            usage = event.usage or usage
            said += [token for choice in event.choices for token in choice.token_ids or ()]
    return usage, said


@dataclass(frozen=True)
class Played:
    """What became of a load, and how the machine was meanwhile."""

    outcomes: list[Outcome]
    others_cores: float
    feeding_cores: float
    """What clients, daemon and API servers kept busy."""
    discarded: int
    """Tries before it that were disturbed."""
    disturbed: str | None
    """So was the last."""


def play(daemon: Daemon, requests: Callable[[], Iterable[SimRequest]], busy_cores: float = BUSY_CORES) -> Played:
    """Play a load on empty caches, again if it was disturbed, a few times at most."""
    for tries in range(TRIES):
        daemon.forget()
        time.sleep(SETTLE_S)
        _wait_for_quiet(busy_cores)
        with Watch(busy_cores) as watch:
            outcomes = asyncio.run(Load(daemon).play(requests()))
        if watch.disturbed is None:
            break
        print(f"try {tries + 1}: {watch.disturbed}", file=sys.stderr)
    return Played(outcomes, watch.others_cores, watch.feeding_cores, tries, watch.disturbed)


def _wait_for_quiet(busy_cores: float) -> None:
    end_s = time.monotonic() + QUIET_PATIENCE_S
    while time.monotonic() < end_s:
        with Watch(busy_cores) as watch:
            time.sleep(QUIET_LOOK_S)
        if watch.disturbed is None:
            break


def random_prompt(n_tokens: int) -> list[int]:
    """One that nothing has cached."""
    return np.random.default_rng().integers(5, 200, size=n_tokens).tolist()


def machine() -> str:
    """What this ran on, in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else f"{os.cpu_count()} cores"


def dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")

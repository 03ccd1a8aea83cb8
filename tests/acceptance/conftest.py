"""Two real vLLM engines behind a real daemon, started once for the whole run and ended by their ids."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from openai import DefaultHttpxClient, OpenAI

START_DEADLINE_S = 240
STOP_DEADLINE_S = 60
MODEL = "preble-demo"

CONFIG = """
data_dir = "data"
[server]
port = {port}
drain_timeout_s = 5.0
[scheduler]
expected_output_tokens = 16
rebalance = false  # it would, rightly, send some repeated prefixes to an engine that has less to do
[[models]]
name = "preble-demo"
path = "demo"
hardware = "cpu"
engines = 2
block_size = 32
max_num_seqs = 64
max_num_batched_tokens = 2048
max_model_len = 8192
extra_args = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
"""


def preble(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line as an operator would."""
    command = [sys.executable, "-m", "preble.daemon.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, check=check, capture_output=True, text=True, timeout=60)


@dataclass
class RunningDaemon:
    """A daemon as a process: its address, its keys, and its engines' processes."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    _sdk: OpenAI | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def key(self, name: str) -> str:
        return (self.folder / "data" / f"{name}.key").read_text().strip()

    def sdk(self) -> OpenAI:
        """One client for all, closed at the end; each request has a connection of its own, which ends with it."""
        if self._sdk is None:
            http = DefaultHttpxClient(limits=httpx.Limits(max_keepalive_connections=0), timeout=60)
            key = self.key("default")
            self._sdk = OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, http_client=http)
        return self._sdk

    def admin(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key('operator')}"}
        return httpx.Client(base_url=f"{self.url}/admin/v1", headers=headers, timeout=60)

    def gpus(self) -> dict[str, dict]:
        with self.admin() as admin:  # a command takes a second to start, which is longer than much that is looked for
            return {row["gpu"]: row for row in admin.get("/gpus").raise_for_status().json()}

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return preble(*arguments, cwd=self.folder, check=check)

    def explain(self, request_id: str) -> dict:
        """Once it can be explained, which is a moment after its answer."""
        with self.admin() as admin:
            answered = wait_for(lambda: (told := admin.get(f"/explain/{request_id}")).is_success and told, 5, "it")
        return answered.json()

    def engine_metrics(self, gpu: str) -> dict[str, float]:
        """The engine's own counters, past the daemon."""
        transport = httpx.HTTPTransport(uds=str(self.engine_socket(gpu)))
        with httpx.Client(transport=transport, timeout=10) as client:
            lines = client.get("http://engine/metrics").text.splitlines()
        values: dict[str, float] = {}
        for line in lines:
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                values[name.partition("{")[0]] = values.get(name.partition("{")[0], 0.0) + float(value)
        return values

    def engine_socket(self, gpu: str) -> Path:
        return next(
            Path(connection.laddr)
            for process in psutil.Process(self.process.pid).children(recursive=True)
            for connection in process.net_connections(kind="unix")
            if connection.laddr.endswith(f"{gpu}.sock")
        )

    def engine_pids(self) -> set[int]:
        """Every process below the daemon."""
        return {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}

    def wait_ready(self, deadline_s: float = START_DEADLINE_S) -> None:
        wait_for(self._is_ready, deadline_s, "the daemon to be ready", pause_s=0.25)
        self.sdk()  # here, and not in many threads at once

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"the daemon ended: {(self.folder / 'daemon.log').read_text()[-3000:]}"
        try:
            if httpx.get(f"{self.url}/health/ready", timeout=5).status_code != 200:
                return False
        except httpx.HTTPError:
            return False
        return all(row["state"] == "ready" for row in self.gpus().values())  # one engine is enough for the route

    def stop(self) -> int:
        """End it as an operator would; by force, with everything below it, if it does not obey."""
        if self._sdk is not None:
            self._sdk.close()
        below = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_DEADLINE_S)
        finally:
            for process in [*below, *([psutil.Process(self.process.pid)] if self.process.poll() is None else [])]:
                if process.is_running():
                    process.kill()


def wait_for(condition, deadline_s: float, what: str, pause_s: float = 0.05):
    """The condition's first true value."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(pause_s)
    raise AssertionError(f"waited {deadline_s} s in vain for {what}")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_daemon(
    folder: Path, *options: str, port: int | None = None, model: str = "", demo: Path | None = None
) -> RunningDaemon:
    """`model` is more of what `preble.toml` says of the model. `demo` is a demo model, made before; or it is made."""
    port = port or free_port()
    if demo is not None:
        (folder / "data").mkdir(mode=0o700)
        shutil.copytree(demo, folder / "data" / "models" / demo.name)
    (folder / "preble.toml").write_text(CONFIG.format(port=port) + model)
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "preble.daemon.cli.main", "serve", *options],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return RunningDaemon(process, folder, port)


def pytest_collection_modifyitems(items):
    """The test that kills the daemon that all share comes after the others that are here."""
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    if own:
        first = items.index(own[0])
        own.sort(key=lambda item: item.get_closest_marker("last") is not None)
        items[first : first + len(own)] = own


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    """The daemon that most tests share. A test that ends it, or one of its engines, puts it right again."""
    running = start_daemon(tmp_path_factory.mktemp("d"))
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()

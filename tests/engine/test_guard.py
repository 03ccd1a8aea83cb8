"""No process of an engine outlives the daemon, whatever either of them does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preble.daemon.engine import guard

GUARD = [sys.executable, "-I", "-S", guard.__file__]

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for leave_group in (False, True):
    if os.fork() == 0:                        # a child, and one that leaves group and session, as daemons do
        if leave_group:
            os.setsid()
            if os.fork():
                os._exit(0)
        break
open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
time.sleep(600)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator["Tree"]:
    tree = Tree(tmp_path / "pids")
    yield tree
    for pid in tree.pids():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


class Tree:
    """An engine of three processes that ignore SIGTERM and say who they are."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.command = [sys.executable, "-c", STUBBORN, str(folder)]

    def pids(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir()]

    def wait_until_complete(self) -> None:
        wait_for(lambda: len(self.pids()) == 3)

    def is_gone(self) -> bool:
        return not any(map(alive, self.pids()))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> float:
    """Return after how many seconds it came true."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - began_s


class Guarded:
    def __init__(self, command: list[str], grace_s: float) -> None:
        self.guard = subprocess.Popen(
            [*GUARD, str(grace_s), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> "Guarded":
        assert self.guard.stdout is not None
        self.pid = int(self.guard.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        if self.guard.poll() is None:
            self.guard.terminate()
            self.guard.wait(timeout=15)
        for pipe in (self.guard.stdin, self.guard.stdout, self.guard.stderr):
            assert pipe is not None
            pipe.close()

    def errors(self) -> bytes:
        """All that was written to standard error, once everybody who could has ended."""
        assert self.guard.stderr is not None
        return self.guard.stderr.read()


@pytest.mark.parametrize(("code", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + 9)])
def test_the_guard_exits_as_the_engine_did(code, status):
    with Guarded(["sh", "-c", code], grace_s=1) as engine:
        assert engine.guard.wait(timeout=5) == status


def test_the_engine_writes_to_standard_error_and_reads_nothing():
    with Guarded(["sh", "-c", "cat; echo out; echo err >&2"], grace_s=1) as engine:
        assert engine.errors() == b"out\nerr\n"


def test_a_command_that_does_not_exist_is_told():
    with Guarded(["/nowhere/vllm"], grace_s=1) as engine:
        assert b"cannot run /nowhere/vllm" in engine.errors()
        assert engine.guard.wait(timeout=5) == 127


def test_sigterm_lets_the_engine_end_by_itself():
    code = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    with Guarded(["sh", "-c", code], grace_s=10) as engine:
        assert engine.guard.stderr is not None
        assert engine.guard.stderr.readline() == b"up\n"
        engine.guard.terminate()
        assert engine.guard.wait(timeout=5) == 3
        assert engine.guard.stderr.read().endswith(b"bye\n")


def test_sigterm_kills_what_does_not_end_within_the_grace(tree):
    with Guarded(tree.command, grace_s=0.3) as engine:
        tree.wait_until_complete()
        began_s = time.monotonic()
        engine.guard.terminate()
        assert engine.guard.wait(timeout=5) == 128 + signal.SIGKILL
        assert 0.3 <= time.monotonic() - began_s < 3
        assert tree.is_gone()


def test_the_rest_goes_when_the_first_process_dies(tree):
    with Guarded(tree.command, grace_s=60) as engine:
        tree.wait_until_complete()
        os.kill(engine.pid, signal.SIGKILL)
        assert engine.guard.wait(timeout=2) == 128 + signal.SIGKILL
        assert tree.is_gone()


def test_the_end_is_told_when_it_begins(tree):
    with Guarded(tree.command, grace_s=0.5) as engine:
        tree.wait_until_complete()
        engine.guard.terminate()
        assert engine.guard.stdout is not None
        assert engine.guard.stdout.read() == b""
        assert engine.guard.poll() is None
        assert not tree.is_gone()


def test_nothing_is_left_when_the_daemon_is_killed(tree):
    daemon_code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", daemon_code, *GUARD, "60", *tree.command]) as daemon:
        try:
            tree.wait_until_complete()
        finally:
            daemon.kill()
    assert wait_for(tree.is_gone) < 5


def test_the_first_process_is_told_to_end_when_the_guard_is_killed():
    code = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    with Guarded(["sh", "-c", code], grace_s=1) as engine:
        os.kill(engine.guard.pid, signal.SIGKILL)
        wait_for(lambda: not alive(engine.pid))

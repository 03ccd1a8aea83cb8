"""One engine's processes, behind their guard: starts them, tells when they have ended, ends them."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from preble.daemon.errors import EngineError

_GUARD = Path(__file__).with_name("guard.py")
_TAIL_BYTES = 4096
_TAIL_LINES = 12


class EngineProcess:
    """A started engine. Whoever started it must `stop` it, also when it has ended by itself."""

    def __init__(self, guard: asyncio.subprocess.Process, pid: int, log: Path) -> None:
        self._guard = guard
        self._log = log
        self.pid = pid
        """The engine's first process and the leader of its process group."""

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: Path, grace_s: float
    ) -> "EngineProcess":
        """Start an engine that writes to `log`; the log of the start before is kept as `log`.1.

        `grace_s` lies between SIGTERM and SIGKILL. Raises `EngineError` if no process can be made.
        """
        try:
            with _fresh(log) as output:
                guard = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(_GUARD), str(grace_s)),
                    *command,
                    stdin=asyncio.subprocess.PIPE,  # it closes when the daemon is gone, however that came about
                    stdout=asyncio.subprocess.PIPE,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # Ctrl-C in the terminal is for the daemon, which drains first
                )
        except OSError as error:
            raise EngineError(f"cannot start an engine: {error}") from error
        assert guard.stdout is not None, "it was asked for"
        line = await guard.stdout.readline()
        if not line:
            await guard.wait()
            raise EngineError(f"the engine's guard ended at once; last lines of {log}:\n{_tail(log)}")
        return cls(guard, int(line), log)

    async def ending(self) -> None:
        """Wait until the engine's first process has ended or is being ended; others may still be there."""
        assert self._guard.stdout is not None, "it was asked for"
        await self._guard.stdout.read()

    async def wait(self) -> str:
        """Wait until no process of the engine is left; return how it ended, in words, with its last output."""
        status = await self._guard.wait()
        if status < 0:
            self._end_what_the_guard_left()
        return f"{_in_words(status)}; last lines of {self._log}:\n{_tail(self._log)}"

    async def stop(self) -> None:
        """End the engine: SIGTERM, and SIGKILL after the grace. Returns when no process is left."""
        if self._guard.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._guard.send_signal(signal.SIGTERM)
        await self.wait()

    def _end_what_the_guard_left(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _fresh(log: Path) -> BinaryIO:
    """Open `log` empty, keeping what was in it as `log`.1."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    return log.open("wb")


def _in_words(status: int) -> str:
    if status < 0:
        return f"its guard was ended by signal {-status}"
    if status > 128:
        return f"it was ended by signal {status - 128}"
    return f"it ended with status {status}"


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])

"""Writes what happens to the machine to a file, behind its back, for `preble replay`."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from preble.daemon import __version__
from preble.daemon.config import SchedulerConfig
from preble.daemon.errors import ConfigError
from preble.daemon.flow.effects import Effect
from preble.daemon.flow.events import Event
from preble.daemon.flow.recording import Record, encode_header, encode_step, no_record

MAX_BYTES = 2**30
"""A recording ends there: some hundred thousand requests."""
_MAX_WAITING = 100_000
"""Steps that may wait for a disk that is slow."""
_INTERVAL_S = 0.2
_log = structlog.get_logger(__name__)

_Step = tuple[float, Event, Sequence[Effect]]


class Recorder:
    """Takes every step of one machine, from its first on. Encoding and writing are another thread's.

    A recording that cannot go on (too large, disk full or too slow) ends with a line in the log; what was written until
    then can be replayed, and the daemon is none the worse.
    """

    def __init__(self, descriptor: int, max_bytes: int = MAX_BYTES) -> None:
        """Takes over a file that is open for writing. Make it inside a running event loop."""
        self._file = os.fdopen(descriptor, "wb")
        self._left_bytes = max_bytes
        self._waiting: list[_Step] = []
        self._added = asyncio.Event()
        self._recording = True
        self._closing = False
        self._task = asyncio.create_task(self._run())

    def record(self, at_s: float, event: Event, effects: Sequence[Effect]) -> None:
        """Have a step written soon. Never blocks."""
        if not self._recording:
            return
        self._waiting.append((at_s, event, effects))
        if len(self._waiting) > _MAX_WAITING:
            self._end("the disk is too slow")
        self._added.set()

    async def close(self) -> None:
        """Write what waits, and close the file."""
        self._closing = True
        self._added.set()
        await self._task

    async def _run(self) -> None:
        try:
            while not self._closing:
                await self._added.wait()
                self._added.clear()
                if not self._closing:
                    await asyncio.sleep(_INTERVAL_S)
                await self._write_waiting()
            await self._write_waiting()
        finally:
            with suppress(OSError):  # what a full disk did not take, it does not take now
                self._file.close()

    async def _write_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        if why := await asyncio.to_thread(self._write, batch):
            self._end(why)

    def _write(self, batch: Sequence[_Step]) -> str | None:
        """Why the recording ends, if it does."""
        try:
            for step in batch:
                line = encode_step(*step)
                self._left_bytes -= len(line)
                if self._left_bytes < 0:
                    return "it is as large as it may be"
                self._file.write(line)
            self._file.flush()
        except OSError as error:
            return str(error)
        return None

    def _end(self, why: str) -> None:
        if self._recording:
            self._recording = False
            _log.warning("recording_ended", why=why)
        self._waiting = []


@asynccontextmanager
async def recording(path: Path | None, config: SchedulerConfig) -> AsyncIterator[Record]:
    """Record to a new file that only we may read; to none if there is no path. Raises `ConfigError` if it cannot be."""
    if path is None:
        yield no_record
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(descriptor, encode_header(__version__, config))
    except FileExistsError:
        raise ConfigError(f"--record-events: {path} is there already; a recording is never written over") from None
    except OSError as error:
        raise ConfigError(f"--record-events: {path}: {error.strerror}") from error
    recorder = Recorder(descriptor)
    try:
        yield recorder.record
    finally:
        await recorder.close()

"""Keeps what a console is told in a file, for `--replay`."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.wire.live import LiveEvent
from preble.tui.feed.source import Line, write_line

MOST_BYTES = 2**30


class Recorder:
    """Writes a new file that only its owner can read, 1 GiB at most; a full disk ends only the recording."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._start_s: float | None = None
        self._written = 0
        self.fault: str | None = None
        """Why nothing is recorded any more."""
        try:
            self._file = open(path, "xb", opener=_private)  # noqa: SIM115 (it is written to until the end)
        except OSError as error:
            raise ConfigError(f"--record: {path} cannot be written: {error.strerror}") from error

    def event(self, event: LiveEvent) -> None:
        """Keep an event."""
        self._write(Line(at_s=self._elapsed_s(), event=event))

    def answer(self, asked: str, answer: Any) -> None:
        """Keep what the daemon answered."""
        raw = msgspec.Raw(msgspec.json.encode(answer))
        self._write(Line(at_s=self._elapsed_s(), asked=asked, answer=raw))

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()

    def _elapsed_s(self) -> float:
        now_s = self._now()
        if self._start_s is None:
            self._start_s = now_s
        return round(now_s - self._start_s, 3)

    def _write(self, line: Line) -> None:
        if self.fault is not None:
            return
        data = write_line(line) + b"\n"
        self._written += len(data)
        if self._written > MOST_BYTES:
            self.fault = f"{self._path} has reached {MOST_BYTES // 2**30} GiB; nothing more is recorded"
            return
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self.fault = f"{self._path}: {error.strerror}; nothing more is recorded"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

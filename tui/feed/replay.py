"""Plays what was recorded, or what a simulated cluster writes while it runs."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from preble.daemon.errors import ConfigError
from preble.daemon.wire.live import LiveEvent
from preble.tui.feed.source import Item, Line, read_line
from preble.tui.state import Link

DEMO = (sys.executable, "-m", "preble.daemon.cli.main", "demo-feed")
"""The command whose output `--demo` shows: this Preble's own, in a process of its own."""
_LONGEST_LINE = 64 * 2**20
_PATIENCE_S = 5.0
_MOST_ANSWERS = 10_000
"""Of a simulated cluster, kept; those that came first are forgotten first."""

Answers = dict[str, msgspec.Raw]
"""What was answered, by what was asked."""


def read_recording(path: Path) -> list[Line]:
    """All lines of a recording; a last one that was cut off is left out. Raises `ConfigError`."""
    try:
        texts = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"--replay: {path} cannot be read: {error.strerror}") from error
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(read_line(text))
        except msgspec.MsgspecError as error:
            if number == len(texts) and lines:
                break  # whoever recorded was killed
            raise ConfigError(f"--replay: {path}, line {number}: {error}") from error
    if not any(line.event is not None for line in lines):
        raise ConfigError(f"--replay: {path} holds no events")
    return lines


class Replay:
    """Plays a recording at the pace at which it was made, times `speed`; 0: all at once."""

    def __init__(self, lines: Sequence[Line], *, speed: float = 1.0) -> None:
        self._lines = lines
        self._speed = speed
        self.answers: Answers = {line.asked: line.answer for line in lines if line.asked is not None}

    async def items(self) -> AsyncIterator[Item]:
        """Its events; then that it has ended."""
        start_s = asyncio.get_running_loop().time()
        for line in self._lines:
            if line.event is None:
                continue
            if self._speed:
                due_s = start_s + line.at_s / self._speed
                await asyncio.sleep(max(due_s - asyncio.get_running_loop().time(), 0))
            yield line.event
        yield Link("ended", "the recording has ended")


class Demo:
    """Plays a simulated cluster: what `command` writes, as it writes it. The process ends with the console."""

    def __init__(
        self, command: Sequence[str] = DEMO, *, on_event: Callable[[LiveEvent], None] = lambda event: None
    ) -> None:
        self._command = command
        self._on_event = on_event
        self.answers: Answers = {}

    def _answer(self, asked: str, answer: msgspec.Raw) -> None:
        self.answers.pop(asked, None)
        self.answers[asked] = answer
        if len(self.answers) > _MOST_ANSWERS:
            del self.answers[next(iter(self.answers))]

    async def items(self) -> AsyncIterator[Item]:
        """Its events, for as long as it runs; then why it ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        try:
            async for text in process.stdout:
                try:
                    line = read_line(text)
                except msgspec.MsgspecError as error:
                    yield Link("lost", f"the simulation said what cannot be read: {error}")
                    return
                if line.asked is not None:
                    self._answer(line.asked, line.answer)
                if line.event is not None:
                    self._on_event(line.event)
                    yield line.event
            last = (await errors).decode(errors="replace").strip().splitlines()[-1:]
            yield Link("lost", f"the simulation has ended{': ' + last[0] if last else ''}")
        finally:
            errors.cancel()
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
        except TimeoutError:
            process.kill()
            await process.wait()

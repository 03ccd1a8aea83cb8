"""The daemon's latest log lines, for consoles: as they are printed, but for what is too long."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from preble.daemon.wire.live import LogLine

_MOST_FIELDS = 32
_MOST_LETTERS = 2000
_OWN = ("event", "level", "timestamp")


class LogTail:
    """Takes lines from the log, from any thread; passes them on to whoever listens, and keeps some until then."""

    def __init__(self, kept: int = 200) -> None:
        self._early: deque[LogLine] = deque(maxlen=kept)
        self._listener: Callable[[LogLine], None] | None = None

    def listen(self, listener: Callable[[LogLine], None]) -> None:
        """Have lines told from now on, those that were kept first. The listener may be called from any thread."""
        while self._early:
            listener(self._early.popleft())
        self._listener = listener

    def take(self, fields: Mapping[str, Any], hide: Callable[[str], str]) -> None:
        """A line as structlog's processors have it, without named secrets; `hide` takes others out of a text."""
        line = LogLine(
            at=str(fields.get("timestamp", "")),
            level=str(fields.get("level", "")),
            event=hide(_text(fields.get("event"))),
            fields={name: hide(_text(fields[name])) for name in list(fields)[:_MOST_FIELDS] if name not in _OWN},
        )
        if self._listener is None:
            self._early.append(line)
        else:
            self._listener(line)


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "…"

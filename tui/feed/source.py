"""What every source of events gives, and the lines that they are recorded as.

A recording has one JSON object per line: `{"at_s": 1.5, "event": ...}` for an event of the feed, and
`{"at_s": 1.5, "asked": "explain/REQUEST_ID", "answer": ...}` for what the console asked beside it.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from preble.daemon.wire.live import LiveEvent
from preble.tui.state import Link

Item = LiveEvent | Link
"""An event, or how the connection is now."""


class Source(Protocol):
    """Gives events as they come, and never raises for what the world does: that is a `Link`."""

    def items(self) -> AsyncIterator[Item]:
        """Events and states of the connection, until there will be no more."""
        ...


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of a recording."""

    at_s: float
    """Since its first line."""
    event: LiveEvent | None = None
    asked: str | None = None
    answer: msgspec.Raw = msgspec.Raw()


read_event = msgspec.json.Decoder(LiveEvent).decode
read_line = msgspec.json.Decoder(Line).decode
write_line = msgspec.json.Encoder().encode

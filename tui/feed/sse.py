"""Server-sent events, read from pieces of bytes as they come. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

MOST_BYTES = 64 * 2**20
"""Of one event; a stream with a longer one is no feed."""


class TooLong(ValueError):
    """An event that does not end."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event."""

    id: str | None
    data: bytes


class EventReader:
    """Puts pieces together; each `feed` gives the events that are whole then."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._id: str | None = None
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Take a piece. Raises `TooLong`."""
        self._rest += piece
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        if self._held + len(self._rest) > MOST_BYTES:
            raise TooLong(f"an event of more than {MOST_BYTES // 2**20} MiB")

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._id, b"\n".join(self._data)) if self._data else None
            self._data, self._held = [], 0
            return event
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._held += len(value)
        elif name == b"id":
            self._id = value.decode("ascii", "replace")
        return None

"""Hands what the board tells to consoles: each event encoded once, and kept for those that were cut off.

A console holds nothing here but the number of its next tick. One that reads too slowly finds that its tick is no longer
kept, and gets a snapshot in its place; so neither memory nor the daemon's time depends on how it reads.
"""

import asyncio
from asyncio import Event
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from time import monotonic

import msgspec

from preble.daemon.config import LiveConfig
from preble.daemon.errors import Unavailable
from preble.daemon.obs.live.board import Board
from preble.daemon.obs.live.faults import Faults
from preble.daemon.wire.live import LiveEvent

_LINGER_S = 60.0
"""So long ticks are made for a console that was cut off."""
_IDLE_S = 1.0
_HEARTBEAT_S = 15.0
_RETRY_S = 5.0
_HEARTBEAT = b": still here\n\n"


class LiveFeed:
    """One feed for all consoles. Await `run` inside a running event loop; `close` ends all streams at once."""

    def __init__(self, board: Board, config: LiveConfig, clock: Callable[[], float] = monotonic) -> None:
        self._board = board
        self._config = config
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode
        self._ticks: deque[tuple[int, bytes]] = deque(maxlen=config.ticks_kept)
        self._consoles = 0
        self._left_s = float("-inf")
        """When the last console left."""
        self._ended = Event()
        self._news = Event()
        self._attached = Event()
        self._faults = Faults("live_feed_failed")

    async def run(self) -> None:
        """Make a tick every interval while there is a console, and keep the counts going while there is none."""
        while not self._ended.is_set():
            try:
                self._advance()
            except Exception as error:  # must not end what is shown of all else
                self._faults.note(error, self._clock())
            await self._rest()

    async def _rest(self) -> None:
        if self._board.watched:
            await asyncio.sleep(self._config.interval_ms / 1000)
            return
        try:
            async with asyncio.timeout(_IDLE_S):
                await self._attached.wait()
        except TimeoutError:
            pass

    def _advance(self) -> None:
        now_s = self._clock()
        self._board.age(now_s)
        if not self._consoles and now_s - self._left_s > _LINGER_S:
            if self._board.watched:
                self._board.watch(False)
                self._ticks.clear()
            return
        if not self._board.watched:
            self._board.watch(True)
        tick = self._board.tick(now_s)
        self._ticks.append((tick.sequence, self._event(tick, tick.sequence)))
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, Event()
        news.set()

    def close(self) -> None:
        """End every stream, and let no other begin."""
        self._ended.set()
        self._attached.set()
        self._tell()

    async def ended(self) -> None:
        """Wait until it is closed."""
        await self._ended.wait()

    def attach(self, after: int | None) -> AsyncGenerator[bytes]:
        """Events for one more console, which has those up to `after`, if that is known. Raises `Unavailable`.

        The console counts from its first event until its generator is closed.
        """
        if self._ended.is_set():
            raise Unavailable("Preble is ending.", code="shutting_down", retry_after_s=_RETRY_S)
        if self._consoles >= self._config.max_consoles:
            message = f"There are {self._consoles} consoles already; live.max_consoles allows no more."
            raise Unavailable(message, code="too_many_consoles", retry_after_s=_RETRY_S)
        return self._stream(after)

    async def _stream(self, after: int | None) -> AsyncGenerator[bytes]:
        self._consoles += 1
        self._attached.set()
        try:
            while not self._ended.is_set():
                following = None if after is None else self._following(after)
                if following is None:
                    after, event = self._snapshot()
                    yield event
                    continue
                for sequence, event in following:
                    after = sequence
                    yield event
                if not following and not await self._wait():
                    yield _HEARTBEAT
        finally:
            self._consoles -= 1
            self._left_s = self._clock()
            if not self._consoles:
                self._attached.clear()

    def _following(self, after: int) -> list[tuple[int, bytes]] | None:
        """Ticks behind that number; None if the next one is not kept, or the number is none of ours."""
        if after == self._board.sequence and self._board.watched:
            return []
        at = after + 1 - self._ticks[0][0] if self._ticks else -1
        return list(islice(self._ticks, at, None)) if 0 <= at < len(self._ticks) else None

    def _snapshot(self) -> tuple[int, bytes]:
        if not self._board.watched:
            self._board.watch(True)
        snapshot = self._board.snapshot(self._clock())
        return snapshot.sequence, self._event(snapshot, snapshot.sequence)

    async def _wait(self) -> bool:
        """For news; False if there was none for long."""
        try:
            async with asyncio.timeout(_HEARTBEAT_S):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _event(self, event: LiveEvent, sequence: int) -> bytes:
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (
            sequence,
            type(event).__name__.lower().encode(),
            self._encode(event),
        )

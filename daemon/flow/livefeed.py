"""The live feed, put together for the daemon."""

import socket
from asyncio import get_running_loop
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from threading import get_ident
from time import monotonic, time
from uuid import uuid4

from preble.daemon import __version__
from preble.daemon.background import alongside
from preble.daemon.config import Config
from preble.daemon.flow.livehost import DaemonHost
from preble.daemon.obs.live.board import Board, Identity
from preble.daemon.obs.live.feed import LiveFeed
from preble.daemon.obs.live.tail import LogTail
from preble.daemon.wire.live import LogLine


def make_board(config: Config, host: DaemonHost) -> Board:
    """A board for this start of the daemon, on the monotonic clock."""
    identity = Identity(
        boot_id=uuid4().hex,
        version=__version__,
        name=config.live.name or socket.gethostname(),
        models=[model.name for model in config.models],
        policy=config.scheduler.policy,
        fairness=config.scheduler.fairness,
        epoch_s=time() - monotonic(),
        started_s=monotonic(),
    )
    return Board(config.live, identity, host)


@asynccontextmanager
async def feeding(board: Board, config: Config, tail: LogTail | None) -> AsyncIterator[LiveFeed]:
    """A feed that runs, with the lines of `tail`."""
    feed = LiveFeed(board, config.live)
    if tail is not None:
        _listen(tail, board)
    async with alongside(feed.run()):
        with closing(feed):
            yield feed


def _listen(tail: LogTail, board: Board) -> None:
    """A board is one thread's; lines come from all."""
    loop, own = get_running_loop(), get_ident()

    def take(line: LogLine) -> None:
        if get_ident() == own:
            board.logged(line)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(board.logged, line)

    tail.listen(take)

"""Work that goes on while something else does."""

from asyncio import Task, create_task, wait
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def alongside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do the work while the block runs; with the block it is cancelled, and waited for.

    The block does not learn of an error in it, the log does, at once.
    """
    task = create_task(work)
    task.add_done_callback(tell_failure)
    try:
        yield
    finally:
        task.cancel()
        await wait((task,))


def tell_failure(task: Task[None]) -> None:
    """Log the error that a task ended with, if it did: for work that nobody awaits."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("background_work_failed", exc_info=error)

"""Rows written behind the request's back, many at a time, each exactly once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

import structlog
from sqlalchemy import Table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from preble.daemon.store.dialects import insert_or

_LARGEST_BATCH = 500
_RETRY_S = 1.0
_CLOSE_PATIENCE_S = 5.0
_log = structlog.get_logger(__name__)

Row = dict[str, Any]


class BatchWriter:
    """Collects rows of one table and inserts them in the background.

    A row whose key is there already is ignored, or takes the place of the one that is there, so that a batch of unknown
    fate can be written again. A batch that fails (disk full, database locked) is kept and tried again until it succeeds
    or the writer is closed. What was added within the last flush interval is lost when the process is killed; nothing
    else is.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        table: Table,
        interval_s: float,
        after_flush: Callable[[int], Any] | None = None,
        with_new: Callable[[AsyncConnection, list[Row]], Awaitable[None]] | None = None,
        *,
        replaces: bool = False,
    ) -> None:
        """`after_flush` is awaited with the number of rows just written.

        `with_new` is awaited within the transaction that writes rows, with those of them that were not there before;
        it is for tables whose rows stay (not `replaces`).
        """
        self._engine = engine
        self._table = table
        self._interval_s = interval_s
        self._after_flush = after_flush
        self._with_new = with_new
        self._replaces = replaces
        self._waiting: list[Row] = []
        self._added = asyncio.Event()
        self._give_up_at_s: float | None = None
        self.fault: str | None = None
        """Why nothing can be written now; None when it can."""
        self._task = asyncio.create_task(self._run())

    def add(self, row: Row) -> None:
        """Have it written soon. Never blocks."""
        self._waiting.append(row)
        self._added.set()

    async def close(self) -> None:
        """Write what waits, and stop. Gives up on a database that stays unusable, and logs how much that loses."""
        self._give_up_at_s = monotonic() + _CLOSE_PATIENCE_S
        self._added.set()
        await self._task

    async def _run(self) -> None:
        while self._give_up_at_s is None:
            await self._added.wait()
            self._added.clear()
            if self._give_up_at_s is None:
                await asyncio.sleep(self._interval_s)
            await self._flush()
        await self._flush()

    async def _flush(self) -> None:
        while batch := self._waiting[:_LARGEST_BATCH]:
            try:
                await self._write(batch)
            except (SQLAlchemyError, OSError) as error:
                _log.error("batch_not_written", table=self._table.name, rows=len(self._waiting), error=str(error))
                self.fault = f"{self._table.name} is not being written, {len(self._waiting)} rows wait: {error}"
                if self._give_up_at_s is not None and monotonic() > self._give_up_at_s:
                    return
                await asyncio.sleep(_RETRY_S)
                continue
            self.fault = None
            del self._waiting[: len(batch)]
            if self._after_flush is not None:
                await self._after_flush(len(batch))

    async def _write(self, batch: Sequence[Row]) -> None:
        if self._replaces:
            await self._put(batch)
            return
        insert = insert_or(self._engine, self._table).on_conflict_do_nothing()
        async with self._engine.begin() as connection:
            if self._with_new is None:
                await connection.execute(insert, list(batch))
                return
            (key,) = self._table.primary_key
            written = await connection.execute(insert.returning(key), list(batch))
            new = set(written.scalars())
            firsts = {row[key.name]: row for row in reversed(batch) if row[key.name] in new}
            await self._with_new(connection, list(firsts.values()))

    async def _put(self, batch: Sequence[Row]) -> None:
        keys = [column.name for column in self._table.primary_key]
        latest = {tuple(row[name] for name in keys): row for row in batch}
        insert = insert_or(self._engine, self._table)
        others = {column.name: insert.excluded[column.name] for column in self._table.c if column.name not in keys}
        async with self._engine.begin() as connection:
            await connection.execute(
                insert.on_conflict_do_update(index_elements=keys, set_=others), list(latest.values())
            )

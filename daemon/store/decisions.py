"""Why requests went where they went: the newest explanations, for `preble explain`."""

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.store.batch import BatchWriter
from preble.daemon.store.tables import decisions, usage
from preble.daemon.wire.admin import Explanation, ExplanationPage

_SWEEP_EVERY = 1000


class DecisionLog:
    """Writes explanations in batches, keeps the newest `kept` of them, and finds one by its request."""

    def __init__(self, engine: AsyncEngine, flush_interval_s: float, kept: int) -> None:
        self._engine = engine
        self._kept = kept
        self._unswept = 0
        self._unwritten: dict[str, Explanation] = {}
        self._writer = BatchWriter(engine, decisions, flush_interval_s, after_flush=self._flushed)

    def record(self, explanation: Explanation) -> None:
        """Have it written soon; it can be found at once."""
        self._unwritten[explanation.request_id] = explanation
        body = msgspec.json.encode(explanation)
        self._writer.add({"request_id": explanation.request_id, "explanation": body})

    async def find(self, request_id: str) -> Explanation | None:
        """None if the request is unknown, still runs, or is no longer kept."""
        if request_id in self._unwritten:
            return self._unwritten[request_id]
        if "\0" in request_id:
            return None  # PostgreSQL would not even compare it
        query = select(decisions.c.explanation).where(decisions.c.request_id == request_id)
        async with self._engine.connect() as connection:
            body = (await connection.execute(query)).scalar_one_or_none()
        return msgspec.json.decode(body, type=Explanation) if body is not None else None

    async def page(
        self, *, tenant: str | None, gpu: str | None, mode: str | None, limit: int, before: int | None
    ) -> ExplanationPage:
        """Those that are written, newest first, that match all that is not None and came `before` that number."""
        query = select(decisions.c.number, decisions.c.explanation).order_by(decisions.c.number.desc())
        wanted = {"tenant": tenant, "gpu": gpu, "mode": mode}
        if any("\0" in (value or "") for value in wanted.values()):
            return ExplanationPage(rows=[], next=None)  # as above
        if any(value is not None for value in wanted.values()):
            query = query.join(usage, usage.c.request_id == decisions.c.request_id)
            query = query.where(*(usage.c[name] == value for name, value in wanted.items() if value is not None))
        if before is not None:
            query = query.where(decisions.c.number < before)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query.limit(limit + 1))).all()
        found = [msgspec.json.decode(body, type=Explanation) for _, body in rows[:limit]]
        return ExplanationPage(rows=found, next=rows[limit - 1][0] if len(rows) > limit else None)

    @property
    def fault(self) -> str | None:
        """Why nothing can be written now; None when it can."""
        return self._writer.fault

    async def close(self) -> None:
        """Write what waits."""
        await self._writer.close()

    async def _flushed(self, n_rows: int) -> None:
        for request_id in list(self._unwritten)[:n_rows]:  # written in the order they came
            del self._unwritten[request_id]
        self._unswept += n_rows
        if self._unswept >= min(_SWEEP_EVERY, self._kept):
            self._unswept = 0
            await self._sweep()

    async def _sweep(self) -> None:
        newest = select(func.max(decisions.c.number)).scalar_subquery()
        async with self._engine.begin() as connection:
            await connection.execute(delete(decisions).where(decisions.c.number <= newest - self._kept))

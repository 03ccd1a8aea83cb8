"""How fast models are on hardware: what was fitted before, so that a start need not measure it again."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncEngine

from preble.daemon.ids import ModelName
from preble.daemon.sched.types import TimeModel
from preble.daemon.store.dialects import insert_or
from preble.daemon.store.tables import time_models

_COEFFICIENTS = (
    "prefill_base_ms",
    "prefill_ms_per_token",
    "prefill_ms_per_token2",
    "decode_base_ms",
    "decode_ms_per_sequence",
)


class TimeModels:
    """One time model for each model and device."""

    def __init__(self, engine: AsyncEngine, known: dict[tuple[ModelName, str], TimeModel]) -> None:
        self._engine = engine
        self._known = known

    @classmethod
    async def load(cls, engine: AsyncEngine) -> "TimeModels":
        """Read what there is."""
        async with engine.connect() as connection:
            rows = (await connection.execute(select(time_models))).mappings().all()
        return cls(engine, {(ModelName(row["model"]), row["device"]): _read(row) for row in rows})

    def find(self, model: ModelName, device: str) -> TimeModel | None:
        """What was fitted for the model on such a device; None if it never ran there."""
        return self._known.get((model, device))

    async def save(self, model: ModelName, device: str, fitted: TimeModel, observations: int, now_s: float) -> None:
        """Keep it in place of what was known."""
        self._known[model, device] = fitted
        values: dict[str, Any] = {**asdict(fitted), "observations": observations, "updated_at_s": now_s}
        row = insert_or(self._engine, time_models).values(model=model, device=device, **values)
        async with self._engine.begin() as connection:
            await connection.execute(row.on_conflict_do_update(index_elements=["model", "device"], set_=values))


def _read(row: RowMapping) -> TimeModel:
    return TimeModel(**{name: row[name] for name in _COEFFICIENTS})

"""The little in which the databases differ."""

from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def insert_or(engine: AsyncEngine, table: Table) -> Any:
    """An `insert` that can be told, in the same words on either, what to do where the row is there already."""
    return _INSERTS[engine.dialect.name](table)

"""The database: opened once, brought up to date first, and shared by every store."""

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from preble.daemon.errors import ConfigError

FILE_NAME = "preble.db"
_BUSY_TIMEOUT_MS = 5000


def url(data_dir: Path) -> str:
    """Where the database is, for a synchronous driver."""
    return f"sqlite:///{data_dir / FILE_NAME}"


async def open_database(data_dir: Path) -> AsyncEngine:
    """Migrate the database in `data_dir`, which must exist, and open it.

    Raises `ConfigError` if it is of a newer version or no database.
    """
    try:
        await asyncio.to_thread(upgrade, data_dir)
    except DatabaseError as error:
        raise ConfigError(f"{data_dir / FILE_NAME}: cannot be used as the database: {error.orig}") from error
    engine = create_async_engine(url(data_dir).replace("sqlite:", "sqlite+aiosqlite:", 1))
    event.listen(engine.sync_engine, "connect", _prepare)
    return engine


def upgrade(data_dir: Path) -> None:
    """Bring the schema to this version of Preble; makes the database if there is none."""
    scripts = ScriptDirectory.from_config(_alembic(data_dir))
    found = revision(data_dir)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            f"{data_dir / FILE_NAME}: its schema {found!r} is newer than this Preble; run the version that wrote it"
        )
    command.upgrade(_alembic(data_dir), "head")


def revision(data_dir: Path) -> str | None:
    """The schema that the database has; None if it has none yet."""
    if not (data_dir / FILE_NAME).exists():
        return None
    engine = create_engine(url(data_dir))
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def newest_revision(data_dir: Path) -> str | None:
    """The schema that this version of Preble wants."""
    return ScriptDirectory.from_config(_alembic(data_dir)).get_current_head()


def _alembic(data_dir: Path) -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("sqlalchemy.url", url(data_dir).replace("%", "%%"))
    return config


def _migrations() -> Path:
    """In a wheel they lie inside the package, in a checkout beside it."""
    package = Path(str(files("preble.daemon")))
    packed = package / "_migrations"
    return packed if packed.exists() else package.resolve().parent / "migrations"


def _prepare(connection: Any, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()

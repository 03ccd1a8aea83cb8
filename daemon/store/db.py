"""The database: opened once, brought up to date first, and shared by every store. SQLite, or PostgreSQL by URL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from preble.daemon.errors import ConfigError

FILE_NAME = "preble.db"
_BUSY_TIMEOUT_MS = 5000
_CLAIM = 0x507265626C65
"""Names the lock of a daemon on its database; any number would do that nobody else uses."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the database is."""

    url: URL
    """For a synchronous driver."""

    @classmethod
    def of(cls, data_dir: Path, database_url: str = "") -> "Place":
        """A file in `data_dir`, unless there is a URL. Raises `ConfigError` if its driver is missing."""
        if not database_url:
            return cls(URL.create("sqlite", database=str(data_dir / FILE_NAME)))
        if find_spec("psycopg") is None:
            raise ConfigError("database_url: the driver is missing; pip install 'psycopg[binary]'")
        return cls(make_url(database_url).set(drivername="postgresql+psycopg"))

    @property
    def is_file(self) -> bool:
        """Whether it is SQLite's."""
        return self.url.drivername == "sqlite"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return str(self.url.database) if self.is_file else self.url.render_as_string()

    def text(self) -> str:
        """The URL with whatever is in it."""
        return self.url.render_as_string(hide_password=False)


async def open_database(place: Place) -> AsyncEngine:
    """Migrate the database and open it. The folder of a file must exist, and so must a database on a server.

    Raises `ConfigError` if it is of a newer version, cannot be reached, or is no database.
    """
    try:
        await asyncio.to_thread(upgrade, place)
    except DatabaseError as error:
        raise ConfigError(f"{place.name}: cannot be used as the database: {reason(error)}") from error
    if not place.is_file:
        return create_async_engine(place.url, pool_pre_ping=True)
    engine = create_async_engine(place.url.set(drivername="sqlite+aiosqlite"))
    event.listen(engine.sync_engine, "connect", _prepare)
    return engine


@asynccontextmanager
async def claimed(engine: AsyncEngine) -> AsyncIterator[None]:
    """Keep other daemons out while the block runs: each believes that nobody else changes what it has in memory.

    A file is claimed with its folder. Raises `ConfigError`.
    """
    if engine.dialect.name == "sqlite":
        yield
        return
    async with engine.connect() as connection:
        if not (await connection.execute(select(func.pg_try_advisory_lock(_CLAIM)))).scalar_one():
            raise ConfigError(f"database_url: {engine.url.render_as_string()} is in use by another Preble")
        await connection.commit()  # the lock is the connection's, not the transaction's
        try:
            yield
        finally:  # a server that is told of it lets the next in at once, and not when it sees that nobody is there
            with suppress(DBAPIError):
                await connection.execute(select(func.pg_advisory_unlock(_CLAIM)))
                await connection.commit()


def reason(error: DBAPIError) -> str:
    """What the driver says, in one line."""
    return " ".join(str(error.orig).split())


def upgrade(place: Place) -> None:
    """Bring the schema to this version of Preble; makes the file if there is none."""
    scripts = ScriptDirectory.from_config(_alembic(place))
    found = revision(place)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigError(
            f"{place.name}: its schema {found!r} is newer than this Preble; run the version that wrote it"
        )
    command.upgrade(_alembic(place), "head")


def revision(place: Place) -> str | None:
    """The schema that the database has; None if it has none yet."""
    if place.is_file and not Path(place.name).exists():
        return None
    engine: Engine = create_engine(place.url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def newest_revision() -> str | None:
    """The schema that this version of Preble wants."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(_migrations()))
    return ScriptDirectory.from_config(config).get_current_head()


def _alembic(place: Place) -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_migrations()))
    config.set_main_option("sqlalchemy.url", place.text().replace("%", "%%"))
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

"""Databases as the daemon opens them: the same tests run on SQLite and, where it can be had, on PostgreSQL."""

from contextlib import ExitStack
from uuid import uuid4

import pytest
from tests.store.postgresql import Missing, serving

from preble.daemon.store.db import Place, open_database


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL server of this run, or why there is none."""
    with ExitStack() as stack:
        try:
            started = stack.enter_context(serving())
        except Missing as why:
            started = why
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    """Where a database can be made."""
    if request.param == "sqlite":
        return Place.of(tmp_path)
    server = request.getfixturevalue("server")
    if isinstance(server, Missing):
        pytest.skip(f"no PostgreSQL: {server}")
    return Place.of(tmp_path, server.create(f"t{uuid4().hex}"))


@pytest.fixture
async def database(place):
    engine = await open_database(place)
    yield engine
    await engine.dispose()


@pytest.fixture
def file_place(tmp_path):
    return Place.of(tmp_path)


@pytest.fixture
async def file_database(file_place):
    """Of SQLite, for what only it has."""
    engine = await open_database(file_place)
    yield engine
    await engine.dispose()

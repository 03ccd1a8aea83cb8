"""A database as the daemon opens it."""

import pytest

from preble.daemon.store.db import open_database


@pytest.fixture
async def database(tmp_path):
    engine = await open_database(tmp_path)
    yield engine
    await engine.dispose()

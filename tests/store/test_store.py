"""The schema, the ledger, decisions and time models on a real database."""

import asyncio
import sqlite3
from dataclasses import replace

import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from tests.store.records import usage

from preble.daemon.errors import ConfigError
from preble.daemon.sched.types import TimeModel
from preble.daemon.store import db
from preble.daemon.store.audit import AuditFilter, AuditLog
from preble.daemon.store.decisions import DecisionLog
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.tables import metadata
from preble.daemon.store.time_models import TimeModels
from preble.daemon.store.usage_query import UsageFilter
from preble.daemon.wire.admin import Actual, Explanation


def explanation(number: int) -> Explanation:
    actual = Actual(status="finished", cached_tokens=0, output_tokens=1, queue_ms=0.1, ttft_ms=None, latency_ms=2.0)
    return Explanation(
        request_id=f"req_{number}",
        model="m",
        gpu="cpu0",
        mode="explore",
        reason="why",
        prompt_tokens=10,
        predicted_cached_tokens=0,
        candidates=[],
        attempts=1,
        decided_at="2026-01-01T00:00:00+00:00",
        actual=actual,
    )


# --- the schema ---


async def test_migrations_make_exactly_the_tables_of_the_code(place, database):
    engine = create_engine(place.url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert db.revision(place) == db.newest_revision()


async def test_a_database_of_a_newer_preble_is_refused(place, database):
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer than this Preble"):
        db.upgrade(place)


async def test_a_file_is_in_wal_mode_and_keeps_foreign_keys(file_database):
    async with file_database.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1


# --- the ledger ---


async def test_a_locked_file_delays_rows_and_loses_none(tmp_path, file_database, monkeypatch):
    monkeypatch.setattr("preble.daemon.store.batch._RETRY_S", 0.01)
    locker = sqlite3.connect(tmp_path / db.FILE_NAME, isolation_level=None)
    async with file_database.connect() as connection:
        await connection.execute(text("PRAGMA busy_timeout = 1"))
    locker.execute("BEGIN IMMEDIATE")
    with structlog.testing.capture_logs() as logged:
        ledger = Ledger(file_database, 0.001)
        ledger.record(usage(1))
        while not logged:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)
        locker.execute("ROLLBACK")
        await ledger.close()
    locker.close()
    assert logged[0]["event"] == "batch_not_written"
    assert len(await ledger.rows(UsageFilter(), limit=10, offset=0)) == 1


# --- decisions ---


async def test_a_decision_is_found_before_and_after_it_is_written(database):
    log = DecisionLog(database, 0.05, kept=10)
    log.record(explanation(1))
    assert await log.find("req_1") == explanation(1)
    await log.close()
    assert await log.find("req_1") == explanation(1)
    assert await log.find("req_2") is None


async def test_what_no_database_can_hold_is_not_found(database):
    assert await DecisionLog(database, 0.05, kept=10).find("req_\0") is None
    ledger = Ledger(database, 0.01)
    assert await ledger.rows(UsageFilter(tenant="a\0"), limit=1, offset=0) == []
    assert await AuditLog(database).rows(AuditFilter(tenant="a\0"), 1) == []


async def test_a_server_that_does_not_answer_is_named_without_a_password(tmp_path):
    nowhere = db.Place.of(tmp_path, f"postgresql://somebody:secret@/x?host={tmp_path}")
    with pytest.raises(ConfigError, match="cannot be used as the database: connection") as refused:
        await db.open_database(nowhere)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_server_serves_one_daemon_at_a_time(place, database):
    other = await db.open_database(place)
    async with db.claimed(database):
        if place.is_file:  # its folder is what a daemon locks
            async with db.claimed(other):
                pass
        else:
            with pytest.raises(ConfigError, match="in use by another Preble"):
                async with db.claimed(other):
                    pass
    async with db.claimed(other):  # at once, though the first is still connected
        pass
    await other.dispose()


async def test_a_url_without_its_driver_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("preble.daemon.store.db.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install 'psycopg"):
        db.Place.of(tmp_path, "postgresql:///x")


async def test_only_the_newest_decisions_are_kept(database):
    log = DecisionLog(database, 0.001, kept=3)
    for number in range(10):
        log.record(explanation(number))
    await log.close()
    assert [number for number in range(10) if await log.find(f"req_{number}")] == [7, 8, 9]


async def test_what_is_no_database_is_named(tmp_path, file_place):
    (tmp_path / db.FILE_NAME).write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match=r"preble\.db: cannot be used as the database: file is not a database"):
        await db.open_database(file_place)


async def test_time_models_are_kept_by_model_and_device(place):
    first = TimeModel(prefill_base_ms=1, prefill_ms_per_token=0.5, decode_base_ms=9, decode_ms_per_sequence=0.25)
    better = replace(first, prefill_ms_per_token2=1e-6)
    database = await db.open_database(place)
    models = await TimeModels.load(database)
    assert models.find("m", "A6000") is None
    await models.save("m", "A6000", first, 10, 1.0)
    await models.save("m", "A6000", better, 20, 2.0)
    await models.save("m", "H100", first, 10, 1.0)
    assert models.find("m", "A6000") == better
    await database.dispose()
    database = await db.open_database(place)
    again = await TimeModels.load(database)
    assert (again.find("m", "A6000"), again.find("m", "H100"), again.find("other", "H100")) == (better, first, None)
    await database.dispose()

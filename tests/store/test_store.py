"""The schema, the ledger, decisions and time models on a real database."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from time import time

import msgspec
import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from tests.admin_app import author

from preble.daemon.app import budgeted
from preble.daemon.config import Config
from preble.daemon.errors import ConfigError, QuotaExhausted
from preble.daemon.sched.types import TimeModel
from preble.daemon.store import db
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.audit import AuditFilter, AuditLog
from preble.daemon.store.decisions import DecisionLog
from preble.daemon.store.ledger import Ledger, UsageFilter
from preble.daemon.store.tables import metadata
from preble.daemon.store.time_models import TimeModels
from preble.daemon.tenancy.account import Moment
from preble.daemon.tenancy.buckets import day_at
from preble.daemon.tenancy.ledger import Status, UsageRecord
from preble.daemon.wire.admin import Actual, Explanation
from preble.daemon.wire.settings import Limits, TenantSettings


def usage(number: int, tenant: str = "acme", created_at_s: float | None = None) -> UsageRecord:
    return UsageRecord(
        request_id=f"req_{number}",
        tenant=tenant,
        key_id="k",
        model="m",
        endpoint="/v1/completions",
        gpu="cpu0",
        mode="exploit",
        status=Status.FINISHED,
        http_status=200,
        created_at_s=float(number) if created_at_s is None else created_at_s,
        prompt_tokens=10,
        cached_tokens=4 if number % 2 else None,
        predicted_cached_tokens=4,
        output_tokens=3,
        attempts=1,
        queue_ms=0.5,
        ttft_ms=None,
        latency_ms=20.0,
    )


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


async def test_usage_is_written_once_and_read_back_whole(database):
    ledger = Ledger(database, 0.01)
    for record in (usage(1), usage(2), usage(1)):
        ledger.record(record)
    await ledger.close()
    assert await ledger.rows(UsageFilter(), limit=10, offset=0) == [usage(2), usage(1)]


async def test_usage_is_filtered_paged_and_summed(database):
    ledger = Ledger(database, 0.01)
    for number in range(10):
        ledger.record(usage(number, "acme" if number < 7 else "zoo"))
    await ledger.close()
    page = await ledger.rows(UsageFilter(tenant="acme", since_s=2.0), limit=3, offset=1)
    assert [record.request_id for record in page] == ["req_5", "req_4", "req_3"]
    acme, zoo = await ledger.totals(UsageFilter())
    assert (acme.tenant, acme.requests, acme.prompt_tokens, acme.cached_tokens, acme.output_tokens) == (
        "acme",
        7,
        70,
        12,
        21,
    )
    assert zoo.requests == 3


async def test_what_a_tenant_used_begins_with_its_creation(database):
    accounts = await Accounts.load(database)
    await accounts.tenants.create("acme", TenantSettings(), author(3.0))
    ledger = Ledger(database, 0.01)
    for number in range(6):
        ledger.record(usage(number, "acme" if number < 5 else "zoo"))
    await ledger.close()
    since_creation = UsageFilter(since_creation=True)
    assert [row.request_id for row in await ledger.rows(since_creation, limit=10, offset=0)] == ["req_4", "req_3"]
    assert [(row.tenant, row.requests) for row in await ledger.totals(since_creation)] == [("acme", 2)]


async def test_what_was_spent_is_read_back_from_what_engines_had(database):
    ledger = Ledger(database, 0.01)
    accounts = await Accounts.load(database)
    await accounts.tenants.create("acme", TenantSettings(), author(100.0))
    for number, changes in enumerate(
        ({"created_at_s": 99.0}, {"created_at_s": 150.0}, {}, {"attempts": 0}, {"key_id": "k2"})
    ):
        ledger.record(msgspec.structs.replace(usage(number, created_at_s=200.0), **changes))
    await ledger.close()
    row = usage(1).prompt_tokens + usage(1).output_tokens
    assert sorted(await ledger.spent(0.0)) == [("acme", "k", 2 * row), ("acme", "k2", row)]
    assert sorted(await ledger.spent(200.0)) == [("acme", "k", row), ("acme", "k2", row)]


async def test_budgets_survive_a_restart(database):
    accounts = await Accounts.load(database)
    now_s = time()
    await accounts.tenants.create("acme", TenantSettings(limits=Limits(tokens_per_day=26)), author(1.0))
    ledger = Ledger(database, 0.01)
    for number, at_s in enumerate((now_s, now_s, day_at(now_s).start_s - 1)):
        ledger.record(usage(number, created_at_s=at_s))
    await ledger.close()
    limiter = await budgeted(Config(), accounts.directory, ledger)
    with pytest.raises(QuotaExhausted) as refused:
        limiter.enter("acme", "k", 0, Moment(0.0, now_s))
    assert "26 used" in refused.value.message


async def test_old_usage_is_forgotten(database):
    ledger = Ledger(database, 0.01)
    for number in range(4):
        ledger.record(usage(number))
    await ledger.close()
    assert await ledger.forget_before(2.0) == 2
    assert len(await ledger.rows(UsageFilter(), limit=10, offset=0)) == 2


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


_KILLED_WRITER = """
import asyncio, os, sys
from pathlib import Path
from preble.daemon.store.db import Place, open_database
from preble.daemon.store.ledger import Ledger, UsageFilter
sys.path.insert(0, {here!r})
from test_store import usage

async def main():
    ledger = Ledger(await open_database(Place.of(Path({data_dir!r}), {database_url!r})), 0.001)
    for number in range(100):
        ledger.record(usage(number))
    while len(await ledger.rows(UsageFilter(), limit=200, offset=0)) < 100:
        await asyncio.sleep(0.01)
    ledger.record(usage(100))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_what_was_written_survives_kill_9(tmp_path, place):
    url = "" if place.is_file else place.text()
    script = _KILLED_WRITER.format(here=os.path.dirname(__file__), data_dir=str(tmp_path), database_url=url)
    command = [sys.executable, "-c", script]
    killed = await asyncio.to_thread(subprocess.run, command, timeout=60, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    database = await db.open_database(place)
    rows = await Ledger(database, 1.0).rows(UsageFilter(), limit=200, offset=0)
    await database.dispose()
    assert {row.request_id for row in rows} >= {f"req_{number}" for number in range(100)}
    assert all(row == usage(int(row.request_id[4:])) for row in rows), "no row is half-written"


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
    await database.dispose()
    async with db.claimed(other):
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

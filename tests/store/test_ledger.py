"""The ledger on a real database: rows once, sums by hour that are always theirs, and what a kill leaves."""

import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from time import time

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from tests.admin_app import author
from tests.store import settling
from tests.store.records import mixed, usage

from preble.daemon.app import budgeted
from preble.daemon.config import Config, LedgerConfig
from preble.daemon.errors import QuotaExhausted
from preble.daemon.store import db
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.evictions import EvictionLog
from preble.daemon.store.keys import KeySpec
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.opening import forget_often
from preble.daemon.store.usage_query import UsageFilter
from preble.daemon.tenancy.account import Moment
from preble.daemon.tenancy.buckets import day_at
from preble.daemon.tenancy.ledger import Status
from preble.daemon.wire.settings import Limits, TenantSettings

HOUR_S, DAY_S = 3600.0, 86_400.0
NOVEMBER_S = 1_793_491_200.0
"""2026-11-01, at 0 o'clock UTC."""


async def written(database, *records):
    ledger = Ledger(database, 0.01)
    for record in records:
        ledger.record(record)
    await ledger.close()
    return ledger


async def test_when_a_key_was_last_used_is_known_to_the_hour_when_its_rows_are_gone(database):
    old, new = NOVEMBER_S + 10.0, NOVEMBER_S + 2 * HOUR_S + 100.0
    ledger = await written(
        database, usage(1, created_at_s=old, key_id="k"), usage(2, created_at_s=new, key_id="k"),
        usage(3, created_at_s=new + 5, key_id="other"), usage(4, "zoo", created_at_s=new + 5, key_id="k"),
    )  # fmt: skip
    assert await ledger.last_used_s("acme", "k") == new
    assert await ledger.last_used_s("acme", "nobody") is None
    await ledger.forget(new + 2 * DAY_S, rows_days=1, hours_days=30)
    assert await ledger.last_used_s("acme", "k") == NOVEMBER_S + 2 * HOUR_S


async def all_rows(ledger):
    return await ledger.rows(UsageFilter(), limit=10**6, offset=0)


async def assert_sums_are_those_of_the_rows(database, ledger):
    """Exactly, by hour and all else."""
    sums = defaultdict(lambda: [0] * 9)
    priced = set()
    for row in await all_rows(ledger):
        group = (int(row.created_at_s // 3600) * 3600, row.tenant, row.key_id, row.model, row.status.value)
        ttft_us = round(1000 * row.ttft_ms) if row.ttft_ms is not None else 0
        one = [1, row.prompt_tokens, row.cached_tokens or 0, row.output_tokens, round(1000 * row.gpu_ms)]
        one += [row.cost_micros or 0, int(row.ttft_ms is not None), ttft_us, round(1000 * row.latency_ms)]
        sums[group] = [a + b for a, b in zip(sums[group], one, strict=True)]
        if row.cost_micros is not None:
            priced.add(group)
    async with database.connect() as connection:
        found = (await connection.execute(text("SELECT * FROM usage_hours"))).mappings().all()
    assert {tuple(row.values())[:5]: [value or 0 for value in tuple(row.values())[5:]] for row in found} == sums
    assert {tuple(row.values())[:5] for row in found if row["cost_micros"] is not None} == priced


# --- writing ---


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


async def test_sums_by_hour_are_those_of_the_rows(database):
    ledger = await written(database, *map(mixed, range(4000)))
    await assert_sums_are_those_of_the_rows(database, ledger)
    again = await written(database, *map(mixed, range(3000, 5000)))
    assert len(await all_rows(again)) == 5000
    await assert_sums_are_those_of_the_rows(database, again)


async def test_a_batch_whose_fate_is_unknown_is_counted_once(database, monkeypatch):
    """It was committed, and then the connection broke."""
    monkeypatch.setattr("preble.daemon.store.batch._RETRY_S", 0.01)
    ledger = Ledger(database, 0.01)
    write, broken = ledger._writer._write, []

    async def commit_and_break(batch):
        await write(batch)
        if not broken:
            broken.append(len(batch))
            raise OperationalError("COMMIT", {}, OSError("connection reset"))

    monkeypatch.setattr(ledger._writer, "_write", commit_and_break)
    for number in range(100):
        ledger.record(mixed(number))
    await ledger.close()
    assert broken == [100]
    assert len(await all_rows(ledger)) == 100
    await assert_sums_are_those_of_the_rows(database, ledger)


async def test_rows_are_not_written_without_their_sums(database, monkeypatch):
    monkeypatch.setattr("preble.daemon.store.batch._RETRY_S", 0.01)
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE usage_hours RENAME TO away"))
    ledger = Ledger(database, 0.001)
    ledger.record(usage(1))
    await asyncio.sleep(0.1)
    assert await all_rows(ledger) == []
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO usage_hours"))
    await ledger.close()
    await assert_sums_are_those_of_the_rows(database, ledger)
    assert len(await all_rows(ledger)) == 1


# --- being killed ---


class Settled:
    """A process that settles until it is killed, and what it said."""

    def __init__(self, tmp_path, place, first):
        url = "" if place.is_file else place.text()
        self._process = subprocess.Popen(
            [sys.executable, Path(settling.__file__), str(tmp_path), url, str(first)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        self.said = {"settled": first, "written": 0}

    def kill_after(self, number):
        """Once so many are written, at whatever it is doing then."""
        for line in self._process.stdout:
            what, _, count = line.decode().partition(" ")
            self.said[what] = int(count)
            if self.said["written"] >= number:
                self._process.kill()  # what it had said by then is read all the same
        assert self._process.wait() == -9
        self._process.stdout.close()


@pytest.mark.timeout(240)
async def test_a_kill_loses_the_last_moment_and_counts_nothing_twice(tmp_path, place):
    first = 0
    for stop in (50, 1500, 2000, 700):
        settled = Settled(tmp_path, place, first)
        await asyncio.to_thread(settled.kill_after, first + stop)
        database = await db.open_database(place)
        ledger = Ledger(database, 1.0)
        rows = await all_rows(ledger)
        numbers = {int(row.request_id.removeprefix("req_")) for row in rows}
        assert len(numbers) == len(rows)
        assert all(row == mixed(int(row.request_id.removeprefix("req_"))) for row in rows), "no row is half-written"
        last = max(numbers)
        assert numbers >= set(range(first, last + 1)), "what is lost is the last of it"
        assert settled.said["written"] <= last + 1 <= settled.said["settled"] + settling.AT_ONCE
        await assert_sums_are_those_of_the_rows(database, ledger)
        await database.dispose()
        first = settled.said["settled"] + settling.AT_ONCE


# --- reading ---


async def test_totals_begin_and_end_where_they_are_told_to(database):
    """Within an hour they are counted from rows, and from whole hours' sums in between."""
    records = [mixed(number) for number in range(5000)]
    ledger = await written(database, *records)
    for since_s, until_s in (
        (0.0, 9000.0),
        (1.5, 8999.0),
        (3600.0, 7200.0),
        (100.0, 200.0),
        (3500.0, 3700.0),
        (7200.0, None),
    ):
        inside = [each for each in records if since_s <= each.created_at_s < (until_s or 1e9)]
        found = await ledger.totals(UsageFilter(since_s=since_s, until_s=until_s), "model")
        for name in ("prompt_tokens", "output_tokens"):
            assert sum(getattr(each, name) for each in found) == sum(getattr(each, name) for each in inside)
        assert sum(each.requests for each in found) == len(inside)
        assert sum(each.gpu_ms for each in found) == pytest.approx(sum(each.gpu_ms for each in inside))
        cost_micros = sum(each.cost_micros or 0 for each in inside)
        assert sum(each.cost or 0 for each in found) == pytest.approx(cost_micros / 1e6)


async def test_totals_are_those_of_what_was_asked_for(database):
    records = [mixed(number) for number in range(3000)]
    ledger = await written(database, *records)
    for wanted in (
        {"tenant": "zoo"},
        {"key_id": "k3"},
        {"model": "n"},
        {"tenant": "acme", "key_id": "k1", "model": "m"},
    ):
        inside = [each for each in records if all(getattr(each, name) == value for name, value in wanted.items())]
        (found, *_) = totals = await ledger.totals(UsageFilter(**wanted), "model")
        assert sum(each.requests for each in totals) == len(inside) > 0
        assert len(await ledger.rows(UsageFilter(**wanted), limit=9999, offset=0)) == len(inside)
        of_model = [each for each in inside if each.model == found.model]
        for status in Status:
            assert getattr(found, status.value) == sum(each.status is status for each in of_model)
        ttfts = [each.ttft_ms for each in of_model if each.ttft_ms is not None]
        assert found.mean_ttft_ms == (pytest.approx(sum(ttfts) / len(ttfts)) if ttfts else None)
        assert found.mean_latency_ms == pytest.approx(sum(each.latency_ms for each in of_model) / len(of_model))


async def test_totals_can_be_by_period_and_by_name(database):
    at = {"a": NOVEMBER_S, "b": NOVEMBER_S + 2 * HOUR_S, "c": NOVEMBER_S + DAY_S, "d": NOVEMBER_S - 1}
    records = [usage(number, created_at_s=when) for number, when in enumerate(at.values())]
    ledger = await written(database, *records, usage(9, "zoo", NOVEMBER_S, key_id="z"))

    async def by(what, part):
        return [(getattr(each, part), each.requests) for each in await ledger.totals(UsageFilter(), what)]

    assert await by("hour", "start") == [
        ("2026-11-02T00:00:00+00:00", 1),
        ("2026-11-01T02:00:00+00:00", 1),
        ("2026-11-01T00:00:00+00:00", 2),
        ("2026-10-31T23:00:00+00:00", 1),
    ]
    assert [each for _, each in await by("day", "start")] == [1, 3, 1]
    assert await by("month", "start") == [("2026-11-01T00:00:00+00:00", 4), ("2026-10-01T00:00:00+00:00", 1)]
    assert await by("tenant", "tenant") == [("acme", 4), ("zoo", 1)]
    assert await by("key", "key_id") == [("k", 4), ("z", 1)]
    assert await by("model", "model") == [("m", 5)]


async def test_a_cost_is_known_if_that_of_any_request_is(database):
    dear = usage(3, "zoo", cost_micros=1_500_000)
    for batch in ([usage(1)], [usage(2, "zoo")], [dear], [usage(4, "zoo")]):
        ledger = await written(database, *batch)
    assert [each.cost for each in await ledger.totals(UsageFilter())] == [None, 1.5]


# --- who had the name before ---


async def former_and_present(database, *, created_at_s):
    """A key of a tenant that is gone, and one of who has its name since."""
    accounts = await Accounts.load(database)
    await accounts.tenants.create("acme", TenantSettings(), author(1.0))
    old = (await accounts.keys.create("acme", KeySpec(), author(2.0))).value.key.id
    await accounts.tenants.delete("acme", author(created_at_s - 1), revoke_keys=True)
    await accounts.tenants.create("acme", TenantSettings(), author(created_at_s))
    return old, (await accounts.keys.create("acme", KeySpec(), author(created_at_s))).value.key.id


async def test_what_a_tenant_used_begins_with_its_creation(database):
    old, new = await former_and_present(database, created_at_s=5000.0)
    ledger = await written(
        database,
        usage(1, created_at_s=100.0, key_id=old),
        usage(2, created_at_s=4990.0, key_id=old),
        usage(3, created_at_s=5000.0, key_id=new),
        usage(4, created_at_s=9000.0, key_id=new),
    )
    since_creation = UsageFilter(since_creation=True)
    assert [row.request_id for row in await ledger.rows(since_creation, limit=10, offset=0)] == ["req_4", "req_3"]
    assert [(row.tenant, row.requests) for row in await ledger.totals(since_creation)] == [("acme", 2)]
    assert [row.requests for row in await ledger.totals(UsageFilter())] == [4]


async def test_what_was_spent_is_read_back_without_that_of_an_earlier_owner(database):
    old, new = await former_and_present(database, created_at_s=5000.0)
    ledger = await written(
        database,
        usage(1, created_at_s=4000.0, key_id=old),
        usage(2, created_at_s=5001.0, key_id=old),  # it was on its way when its tenant went
        usage(3, created_at_s=5001.0, key_id=new),
        usage(4, created_at_s=7200.0, key_id=new),
        usage(5, created_at_s=7200.0, key_id=new, prompt_tokens=0, output_tokens=0, attempts=0),
        usage(6, created_at_s=7200.0, tenant="nobody"),
    )
    row = usage(1).prompt_tokens + usage(1).output_tokens
    assert await ledger.spent(0.0) == [("acme", new, 2 * row)]
    assert await ledger.spent(7200.0) == [("acme", new, row)]


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


async def test_budgets_are_read_from_what_outlives_the_rows(database):
    accounts = await Accounts.load(database)
    await accounts.tenants.create("acme", TenantSettings(limits=Limits(tokens_per_month=13)), author(1.0))
    now_s = NOVEMBER_S + 3 * DAY_S
    ledger = await written(database, usage(1, created_at_s=NOVEMBER_S), usage(2, created_at_s=NOVEMBER_S - 0.001))
    await ledger.forget(now_s, rows_days=1, hours_days=32)
    assert await all_rows(ledger) == []
    assert await ledger.spent(NOVEMBER_S) == [("acme", "k", 13)]


# --- forgetting ---


async def test_old_requests_are_forgotten_and_their_sums_later(database):
    ledger = await written(database, *(usage(number, created_at_s=number * DAY_S) for number in range(6)))
    assert await ledger.forget(6 * DAY_S, rows_days=2, hours_days=4) == 4
    assert [row.request_id for row in await all_rows(ledger)] == ["req_5", "req_4"]
    assert [each.requests for each in await ledger.totals(UsageFilter())] == [4]
    assert len(await ledger.totals(UsageFilter(), "day")) == 4


async def test_a_daemon_forgets_by_itself_and_a_fault_does_not_stop_it(database, monkeypatch):
    monkeypatch.setattr("preble.daemon.store.opening._FORGET_S", 0.01)
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE usage_hours RENAME TO away"))
    ledger, evictions = Ledger(database, 0.01), await EvictionLog.load(database, 0.01, time())
    with structlog.testing.capture_logs() as logged:
        forgetting = asyncio.create_task(forget_often(ledger, evictions, LedgerConfig()))
        while not logged:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)
        async with database.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO usage_hours"))
        ledger.record(usage(1))
        ledger.record(usage(2, created_at_s=time()))
        await ledger.close()
        while len(await all_rows(ledger)) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    forgetting.cancel()
    await asyncio.wait([forgetting])
    await evictions.close()
    assert [row.request_id for row in await all_rows(ledger)] == ["req_2"]

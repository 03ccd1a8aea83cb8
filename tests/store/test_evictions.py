"""Evictions of templates: counted by hour, written in batches, and counted on after a restart."""

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from preble.daemon.store.evictions import EvictionLog
from preble.daemon.store.tables import template_evictions

HOUR_S, DAY_S = 3600.0, 86_400.0
A, B = (1, 2), (2, 1)


async def counted(database, *evictions, now_s=0.0):
    log = await EvictionLog.load(database, 0.01, now_s)
    for version, tenant, at_s in evictions:
        log.add(version, tenant, at_s)
    await log.close()
    return log


async def n_rows(database):
    async with database.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(template_evictions))).scalar_one()


async def test_they_are_summed_by_version_and_tenant(database):
    log = await counted(
        database, (A, "acme", 1.0), (A, "acme", 2.0), (A, "zoo", 3.0), (B, "acme", 4.0), (A, "acme", HOUR_S)
    )
    assert sorted(await log.totals(None)) == [(A, "acme", 3), (A, "zoo", 1), (B, "acme", 1)]
    assert await log.totals("zoo") == [(A, "zoo", 1)]
    assert await n_rows(database) == 4


async def test_a_daemon_that_is_started_again_counts_on(database):
    for times in range(1, 4):
        log = await counted(database, (A, "acme", HOUR_S + times), (A, "acme", HOUR_S + times), now_s=HOUR_S + times)
        assert await log.totals(None) == [(A, "acme", 2 * times)]
    assert await n_rows(database) == 1


async def test_a_clock_that_goes_back_loses_nothing(database):
    await counted(database, (A, "acme", HOUR_S), (A, "acme", 0.0), (A, "acme", HOUR_S + 1), now_s=HOUR_S)
    log = await counted(database, (A, "acme", 0.0), now_s=0.0)
    assert await log.totals(None) == [(A, "acme", 4)]


async def test_thousands_at_once_are_a_few_writes(database):
    log = await EvictionLog.load(database, 0.01, 0.0)
    puts, put = [], log._writer._put

    async def told(batch):
        puts.append(len(batch))
        await put(batch)

    log._writer._put = told
    for number in range(3000):
        log.add(A if number % 3 else B, "acme", 0.0)
    await log.close()
    assert sorted(await log.totals(None)) == [(A, "acme", 2000), (B, "acme", 1000)]
    assert len(puts) == 6


async def test_a_batch_whose_fate_is_unknown_is_counted_once(database, monkeypatch):
    """It was committed, and then the connection broke."""
    monkeypatch.setattr("preble.daemon.store.batch._RETRY_S", 0.01)
    log = await EvictionLog.load(database, 0.01, 0.0)
    put, broken = log._writer._put, []

    async def break_after(batch):
        await put(batch)
        if not broken:
            broken.append(log.fault)
            raise OperationalError("", {}, Exception("the connection broke"))

    log._writer._put = break_after
    for _ in range(5):
        log.add(A, "acme", 0.0)
    await log.close()
    assert broken == [None]
    assert await log.totals(None) == [(A, "acme", 5)]


async def test_what_is_too_old_is_forgotten(database):
    log = await counted(database, *((A, "acme", day * DAY_S) for day in range(6)))
    await log.forget(6 * DAY_S, hours_days=4)
    assert await log.totals(None) == [(A, "acme", 4)]

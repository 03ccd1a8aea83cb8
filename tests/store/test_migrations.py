"""A database that an earlier version wrote."""

import sqlite3

import msgspec
from alembic import command
from sqlalchemy import create_engine, text
from tests.store.records import mixed
from tests.store.test_ledger import assert_sums_are_those_of_the_rows

from preble.daemon.store import db
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.usage_query import UsageFilter
from preble.daemon.wire.settings import NO_LIMITS, TenantSettings


async def test_tenants_and_keys_of_before_there_were_settings_have_the_defaults(tmp_path):
    command.upgrade(db._alembic(db.Place.of(tmp_path)), "0002")
    with sqlite3.connect(tmp_path / db.FILE_NAME) as connection:
        connection.execute("INSERT INTO tenants (name, created_at_s) VALUES ('acme', 1.0)")
        connection.execute(
            "INSERT INTO api_keys (id, tenant, name, digest, last4, scopes, created_at_s)"
            " VALUES ('abc', 'acme', 'app', x'00', 'wxyz', 'inference usage:read', 2.0)"
        )
    connection.close()
    database = await db.open_database(db.Place.of(tmp_path))
    directory = (await Accounts.load(database)).directory
    await database.dispose()
    tenant, key = directory.find("acme"), directory.key("abc")
    assert (tenant.settings, tenant.salt_epoch, tenant.version) == (TenantSettings(), 0, 1)
    assert (tenant.created_at_s, tenant.deleted_at_s) == (1.0, None)
    assert (key.tenant, key.limits, key.version, key.replaced_by) == ("acme", NO_LIMITS, 1, None)
    assert sorted(key.scopes) == ["inference", "usage:read"]


LATER = ("gpu_ms", "cost_micros", "template_id", "template", "template_version", "template_tokens", "saved_ms")


async def test_usage_of_before_there_were_sums_is_summed(place):
    command.upgrade(db._alembic(place), "0003")
    old = create_engine(place.url)
    columns = [name for name in mixed(0).__struct_fields__ if name not in LATER]
    insert = f"INSERT INTO usage ({', '.join(columns)}) VALUES (:{', :'.join(columns)})"
    with old.begin() as connection:
        for number in range(3000):
            row = msgspec.structs.asdict(mixed(number))
            connection.execute(text(insert), {name: row[name] for name in columns} | {"attempts": number % 4})
    old.dispose()
    database = await db.open_database(place)
    ledger = Ledger(database, 0.01)
    rows = await ledger.rows(UsageFilter(), limit=9999, offset=0)
    assert len(rows) == 3000
    assert all(row.prompt_tokens == 0 for row in rows if not row.attempts)
    assert any(row.prompt_tokens for row in rows)
    await assert_sums_are_those_of_the_rows(database, ledger)
    await ledger.close()
    await database.dispose()

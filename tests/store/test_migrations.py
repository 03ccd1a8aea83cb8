"""A database that an earlier version wrote."""

import sqlite3

from alembic import command

from preble.daemon.store import db
from preble.daemon.store.accounts import Accounts
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

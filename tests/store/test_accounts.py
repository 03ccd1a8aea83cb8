"""Tenants, keys and the audit: in memory as in the database, whatever goes wrong in between."""

import asyncio
import stat

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from tests.admin_app import author

from preble.daemon.errors import Conflict, NotFound, PreconditionFailed
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.audit import AuditFilter
from preble.daemon.store.bootstrap import ensure_first_keys
from preble.daemon.store.keys import KeySpec, Repeatable
from preble.daemon.tenancy.keys import id_of
from preble.daemon.tenancy.model import OPERATOR_SCOPES, TENANT_SCOPES, Scope
from preble.daemon.wire.settings import Limits, TenantSettings

LIMITS = Limits(requests_per_minute=5, models=("m", "n"), tokens_per_day=2**53)
SETTINGS = TenantSettings(weight=0.25, priority="batch", isolation="group:a", suspended=True, limits=LIMITS)


@pytest.fixture
async def accounts(database):
    return await Accounts.load(database)


async def actions(accounts) -> list[str]:
    return [row.action for row in reversed(await accounts.audit.rows(AuditFilter(), 100))]


def state(accounts):
    return accounts.directory.tenants(), accounts.directory.find_keys()


async def test_everything_survives_a_restart(accounts, database):
    await accounts.tenants.create("acme", SETTINGS, author())
    await accounts.tenants.create("gone", TenantSettings(), author())
    await accounts.tenants.rotate_salt("acme", author())
    spec = KeySpec(name="app", scopes=frozenset({Scope.INFERENCE}), expires_at_s=9.0, limits=LIMITS)
    made = (await accounts.keys.create("acme", spec, author(2.0))).value
    rotated = (await accounts.keys.rotate(made.key.id, 1.0, author(3.0))).value
    await accounts.keys.create(None, KeySpec(), author(4.0))
    await accounts.tenants.delete("gone", author(5.0))
    again = await Accounts.load(database)
    assert state(again) == state(accounts)
    assert again.directory.find("acme").settings == SETTINGS
    assert (again.directory.find("acme").salt_epoch, again.directory.find("acme").version) == (1, 2)
    assert again.directory.remembered("gone").deleted_at_s == 5.0
    old, new = again.directory.key(made.key.id), again.directory.key(rotated.key.id)
    assert (old.expires_at_s, old.replaced_by, new.limits, new.expires_at_s) == (4.0, new.id, LIMITS, 10.0)


async def test_a_key_can_all_of_its_kind_unless_less_is_asked(accounts):
    await accounts.tenants.create("acme", TenantSettings(), author())
    assert (await accounts.keys.create("acme", KeySpec(), author())).value.key.scopes == TENANT_SCOPES
    assert (await accounts.keys.create(None, KeySpec(), author())).value.key.scopes == OPERATOR_SCOPES


async def test_only_a_digest_of_a_key_is_stored(tmp_path, file_database):
    accounts = await Accounts.load(file_database)
    made = (await accounts.keys.create(None, KeySpec(), author())).value
    secret = made.text.encode()
    await file_database.dispose()
    files = list(tmp_path.iterdir())
    assert files
    for path in files:
        assert secret not in path.read_bytes()


async def test_a_revoked_key_is_revoked_at_once_and_for_good(accounts, database):
    key_id = (await accounts.keys.create(None, KeySpec(), author())).value.key.id
    await accounts.keys.revoke(key_id, author(2.0))
    await accounts.keys.revoke(key_id, author(3.0))
    assert accounts.directory.key(key_id).revoked_at_s == 2.0
    assert (await Accounts.load(database)).directory.key(key_id).revoked_at_s == 2.0
    assert await actions(accounts) == ["key.create", "key.revoke"]


async def test_what_is_missing_or_there_twice_is_said(accounts):
    await accounts.tenants.create("acme", TenantSettings(), author())
    with pytest.raises(Conflict):
        await accounts.tenants.create("acme", SETTINGS, author())
    with pytest.raises(NotFound):
        await accounts.keys.create("nobody", KeySpec(), author())
    with pytest.raises(NotFound):
        await accounts.keys.revoke("nothing", author())
    with pytest.raises(NotFound):
        accounts.directory.find_keys("nobody")


async def test_of_many_who_change_the_same_version_one_succeeds(accounts):
    await accounts.tenants.create("acme", TenantSettings(), author())

    def change(number):
        return accounts.tenants.update("acme", lambda _: TenantSettings(weight=number), author(), if_version={1})

    outcomes = await asyncio.gather(*map(change, range(2, 12)), return_exceptions=True)
    assert sum(isinstance(outcome, PreconditionFailed) for outcome in outcomes) == 9
    assert accounts.directory.find("acme").version == 2


async def test_of_many_that_are_the_same_request_one_makes_a_key(accounts):
    request = Repeatable("once", b"x" * 32)
    outcomes = await asyncio.gather(
        *(accounts.keys.create(None, KeySpec(), author(), request=request) for _ in range(5))
    )
    assert len([each for each in outcomes if each.value.text is not None]) == 1
    assert len({each.value.key.id for each in outcomes}) == 1
    assert await actions(accounts) == ["key.create"]


async def test_a_request_is_known_again_after_a_restart(accounts, database):
    request = Repeatable("once", b"x" * 32)
    made = (await accounts.keys.create(None, KeySpec(), author(), request=request)).value
    again = await Accounts.load(database)
    assert (await again.keys.create(None, KeySpec(), author(), request=request)).value.key == made.key


@pytest.mark.parametrize("broken", ["tenants", "api_keys", "audit"])
async def test_a_change_that_cannot_be_written_is_not_made_and_not_recorded(accounts, database, broken):
    await accounts.tenants.create("acme", TenantSettings(), author())
    key_id = (await accounts.keys.create("acme", KeySpec(), author())).value.key.id
    before = state(accounts)
    async with database.begin() as connection:
        await connection.execute(text(f"ALTER TABLE {broken} RENAME TO away"))
    with pytest.raises(DatabaseError):
        await accounts.tenants.delete("acme", author(), revoke_keys=True)
    if broken != "tenants":
        with pytest.raises(DatabaseError):
            await accounts.keys.revoke(key_id, author())
    if broken != "api_keys":
        with pytest.raises(DatabaseError):
            await accounts.tenants.update("acme", lambda _: SETTINGS, author())
    assert state(accounts) == before
    async with database.begin() as connection:
        await connection.execute(text(f"ALTER TABLE away RENAME TO {broken}"))
    assert state(await Accounts.load(database)) == before
    assert await actions(accounts) == ["tenant.create", "key.create"]


async def test_the_audit_is_filtered_and_ends_where_it_is_told_to(accounts):
    for number in range(5):
        await accounts.tenants.create(f"t{number}", TenantSettings(), author(float(number)))
    newest, *_ = found = await accounts.audit.rows(AuditFilter(since_s=2.0), 2)
    assert [row.target for row in found] == ["t4", "t3"]
    assert newest.at == "1970-01-01T00:00:04.000+00:00"
    older = await accounts.audit.rows(AuditFilter(since_s=2.0, before_number=found[-1].number), 10)
    assert [row.target for row in older] == ["t2"]
    assert [row.target for row in await accounts.audit.rows(AuditFilter(tenant="t1"), 10)] == ["t1"]


# --- the first keys ---


async def test_first_keys_are_written_privately_and_kept(tmp_path, accounts):
    for _ in range(2):
        await ensure_first_keys(accounts, tmp_path, create_default_tenant=True, now_s=1.0)
    for name in ("operator.key", "default.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert accounts.directory.key(id_of((tmp_path / name).read_text().strip()))
    assert len(accounts.directory.find_keys()) == 2, "a second start finds what the first one made"


@pytest.mark.parametrize("loss", ["deleted", "mangled", "revoked"])
async def test_a_lost_operator_key_is_replaced(tmp_path, accounts, loss):
    await ensure_first_keys(accounts, tmp_path, create_default_tenant=False, now_s=1.0)
    path = tmp_path / "operator.key"
    old = path.read_text().strip()
    if loss == "deleted":
        path.unlink()
    elif loss == "mangled":
        path.write_text(old[:-1])
    else:
        await accounts.keys.revoke(id_of(old), author(2.0))
    await ensure_first_keys(accounts, tmp_path, create_default_tenant=False, now_s=3.0)
    assert path.read_text().strip() != old
    assert accounts.directory.tenants() == [], "no tenant was asked for"


async def test_the_default_tenant_does_not_come_back_once_it_was_deleted(tmp_path, accounts):
    await ensure_first_keys(accounts, tmp_path, create_default_tenant=True, now_s=1.0)
    await accounts.tenants.delete("default", author(2.0), revoke_keys=True)
    await ensure_first_keys(accounts, tmp_path, create_default_tenant=True, now_s=3.0)
    assert accounts.directory.tenants() == []

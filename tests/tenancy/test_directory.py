"""What is looked up for each request: as it was put there last."""

from dataclasses import replace

import pytest
from tests.tenancy.test_keys import KEY, OTHER, acme, stored

from preble.daemon.errors import NotFound
from preble.daemon.tenancy.directory import Directory
from preble.daemon.wire.settings import TenantSettings


def test_a_change_counts_from_the_next_look_up():
    directory = Directory([acme()], [stored()])
    directory.put_tenant(replace(acme(), settings=TenantSettings(weight=3.0)))
    directory.put_key(stored(revoked_at_s=1.0))
    assert directory.find("acme").settings.weight == 3.0
    assert directory.key(KEY.id).revoked_at_s == 1.0
    assert [key.revoked_at_s for key in directory.keys_of("acme")] == [1.0]


def test_a_deleted_tenant_is_not_found_and_not_forgotten():
    directory = Directory([acme(deleted_at_s=1.0)])
    assert directory.find("acme") is None
    assert directory.tenants() == []
    assert directory.remembered("acme").deleted_at_s == 1.0
    assert directory.has_had_tenants()
    with pytest.raises(NotFound, match=r"no tenant 'acme'\.$"):
        directory.tenant("acme")


def test_an_unknown_tenant_is_answered_with_the_nearest():
    with pytest.raises(NotFound, match="Did you mean 'acme'"):
        Directory([acme()]).tenant("acne")
    assert Directory().find("acme") is None
    assert not Directory().has_had_tenants()


def test_keys_are_listed_by_owner_oldest_first():
    operator = replace(stored(OTHER), tenant=None, created_at_s=-1.0)
    directory = Directory([acme()], [stored(), operator])
    assert directory.find_keys() == [operator, stored()]
    assert directory.find_keys("acme") == [stored()]
    with pytest.raises(NotFound):
        directory.find_keys("nobody")


def test_who_watches_is_told_of_every_tenant_there_is_and_of_every_change():
    directory = Directory([acme()])
    seen = []
    directory.watch(seen.append)
    assert seen == [acme()]
    changed = replace(acme(), settings=TenantSettings(weight=3.0))
    directory.put_tenant(changed)
    assert seen[1:] == [changed]

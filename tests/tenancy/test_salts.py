"""Who has the same salt, and who must not; until when."""

from dataclasses import replace

import pytest

from preble.daemon.ids import TenantName
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.model import Tenant
from preble.daemon.tenancy.salts import MASTER_BYTES, Salts, make_salt, narrow
from preble.daemon.wire.settings import TenantSettings

MASTER = bytes(range(MASTER_BYTES))
ISOLATIONS = {
    "ann": "private", "bob": "private", "cy": "group:red", "di": "group:red", "ed": "group:blue",
    "fay": "shared", "gus": "shared",
}  # fmt: skip


@pytest.fixture
def directory():
    return Directory(
        Tenant(
            name=TenantName(name),
            settings=TenantSettings(isolation=isolation),
            salt_epoch=0,
            version=1,
            created_at_s=0.0,
        )
        for name, isolation in ISOLATIONS.items()
    )


@pytest.fixture
def salts(directory):
    return Salts(MASTER, directory)


def change(directory, name, **changes):
    directory.put_tenant(replace(directory.remembered(TenantName(name)), **changes))


def of_all(salts, own=None):
    return {name: salts.scope(TenantName(name), own).salt for name in ISOLATIONS}


def test_members_of_a_scope_have_the_same_salt_and_nobody_else(salts):
    found = of_all(salts)
    assert found["cy"] == found["di"]
    assert found["fay"] == found["gus"]
    assert len(set(found.values())) == 5


def test_only_what_others_can_find_is_shared(salts):
    shared = {name for name in ISOLATIONS if salts.scope(TenantName(name), None).is_shared}
    assert shared == {"cy", "di", "ed", "fay", "gus"}


@pytest.mark.parametrize("own", ["s", "", "é", "x" * 10_000])
def test_a_salt_of_ones_own_narrows_and_never_leads_to_another_scope(salts, own):
    whole, narrowed = of_all(salts), of_all(salts, own)
    assert narrowed["cy"] == narrowed["di"]
    assert len(set(narrowed.values())) == 5
    assert not set(whole.values()) & set(narrowed.values())


def test_nobody_gets_into_a_scope_by_knowing_its_salt(salts):
    theirs = of_all(salts)["ann"]
    assert of_all(salts, theirs)["bob"] != theirs


@pytest.mark.parametrize("name", ISOLATIONS)
def test_a_rotation_changes_the_salt_of_all_with_whom_one_shares(directory, salts, name):
    before = of_all(salts)
    change(directory, name, salt_epoch=1)
    after = of_all(salts)
    assert after[name] != before[name]
    assert len(set(after.values())) == 5
    assert (after["cy"], after["fay"]) == (after["di"], after["gus"])
    assert [other for other in ("ann", "bob") if after[other] != before[other]] == ([name] if name in "annbob" else [])


@pytest.mark.parametrize("leaves", [{"settings": TenantSettings()}, {"deleted_at_s": 1.0}])
def test_no_salt_returns_that_was_given_up_whoever_leaves(directory, salts, leaves):
    before = of_all(salts)["di"]
    change(directory, "cy", salt_epoch=1)
    change(directory, "cy", **leaves)
    assert of_all(salts)["di"] != before


def test_a_change_of_isolation_counts_at_once(directory, salts):
    change(directory, "ann", settings=TenantSettings(isolation="group:red"))
    assert of_all(salts)["ann"] == of_all(salts)["cy"]
    change(directory, "ann", settings=TenantSettings())
    assert len(set(of_all(salts).values())) == 5


def test_who_is_deleted_during_a_request_has_not_the_salt_of_who_had_the_name_before(directory, salts):
    change(directory, "ann", salt_epoch=1)
    before = of_all(salts)["ann"]
    change(directory, "ann", deleted_at_s=1.0)
    assert of_all(salts)["ann"] == before


def test_who_is_not_known_shares_nothing(salts):
    stranger = salts.scope(TenantName(""), None)
    assert not stranger.is_shared
    assert stranger.salt not in of_all(salts).values()


def test_salts_stay_what_they_were():
    """What is cached under one must be found by the next version, too."""
    salt = make_salt(MASTER, "tenant:acme", 3)
    assert salt == "a134c6f97ad87e44c3d9634efe3d93be106ac90aa630e92f8790ed471bec8b73"
    assert narrow(salt, "own") == "acc6be5a6e2e025177de5b07068f2ba1dd14733f6fb1c9aadd0c11562f9ef1f6"
    assert make_salt(bytes(MASTER_BYTES), "tenant:acme", 3) != salt

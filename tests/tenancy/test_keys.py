"""Keys are made, read and compared; a mistyped one is told apart from a wrong one."""

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.errors import Forbidden, Unauthenticated
from preble.daemon.ids import TenantName
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.keys import CHANCE_BYTES, digest, id_of, matches, mint
from preble.daemon.tenancy.model import TENANT_SCOPES, ApiKey, Scope, Tenant, authenticate, is_tenant_name
from preble.daemon.wire.settings import TenantSettings, is_isolation

KEY = mint("live", os.urandom(CHANCE_BYTES))
OTHER = mint("live", os.urandom(CHANCE_BYTES))
NOW_S = 1000.0


def stored(minted=KEY, *, expires_at_s=None, revoked_at_s=None):
    return ApiKey(
        id=minted.id,
        tenant=TenantName("acme"),
        name="",
        digest=minted.digest,
        last4=minted.last4,
        scopes=TENANT_SCOPES,
        created_at_s=0.0,
        expires_at_s=expires_at_s,
        revoked_at_s=revoked_at_s,
    )


def who(authorization, key=None, **tenant):
    return authenticate(authorization, Directory([acme(**tenant)], [key or stored()]), NOW_S)


def acme(*, suspended=False, deleted_at_s=None):
    return Tenant(
        name=TenantName("acme"),
        settings=TenantSettings(suspended=suspended),
        salt_epoch=0,
        version=1,
        created_at_s=0.0,
        deleted_at_s=deleted_at_s,
    )


def test_a_key_is_read_back_and_matches_only_itself():
    assert KEY.text.startswith(f"preble_live_{KEY.id}_")
    assert id_of(KEY.text) == KEY.id
    assert matches(KEY.text, KEY.digest)
    assert not matches(OTHER.text, KEY.digest)
    assert not matches(KEY.text, None)
    assert digest(KEY.text) not in KEY.text.encode()


@given(st.binary(min_size=CHANCE_BYTES, max_size=CHANCE_BYTES), st.sampled_from(["live", "op"]))
def test_a_key_depends_on_chance_alone_and_on_all_of_it(chance, env):
    key = mint(env, chance)
    assert mint(env, chance) == key
    assert id_of(key.text) == key.id
    for position in (0, CHANCE_BYTES - 1):
        other = bytes([*chance[:position], chance[position] ^ 1, *chance[position + 1 :]])
        assert mint(env, other).text != key.text


@pytest.mark.parametrize("size", [0, CHANCE_BYTES - 1, CHANCE_BYTES + 1])
def test_a_key_is_not_made_of_too_little_chance(size):
    with pytest.raises(AssertionError):
        mint("live", bytes(size))


@given(st.integers(0, len(KEY.text) - 1), st.sampled_from(string.ascii_letters + string.digits + "_-"))
def test_any_single_typo_is_noticed_before_a_look_up(position, letter):
    typo = KEY.text[:position] + letter + KEY.text[position + 1 :]
    assert (id_of(typo) is None) == (typo != KEY.text)


@given(st.text())
def test_whatever_is_no_key_is_none(text):
    assert id_of(text) is None


def test_a_valid_key_stands_for_its_tenant():
    principal = who(f"Bearer {KEY.text}")
    assert (principal.tenant, principal.key_id) == ("acme", KEY.id)
    principal.require(Scope.INFERENCE)
    with pytest.raises(Forbidden, match="admin:write"):
        principal.require(Scope.ADMIN_WRITE)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer x", f"Basic {KEY.text}", KEY.text, f"Bearer {OTHER.text}"],
    ids=["none", "empty", "no key", "no key of ours", "another scheme", "no scheme", "unknown"],
)
def test_no_or_an_unknown_key_is_refused(header):
    with pytest.raises(Unauthenticated):
        who(header)


@pytest.mark.parametrize("key", [stored(expires_at_s=NOW_S), stored(revoked_at_s=1.0)])
def test_an_expired_or_revoked_key_is_refused_in_the_same_words(key):
    with pytest.raises(Unauthenticated) as refused:
        who(f"Bearer {KEY.text}", key)
    assert refused.value.message == Unauthenticated().message


def test_a_key_that_expires_later_still_works():
    assert who(f"Bearer {KEY.text}", stored(expires_at_s=NOW_S + 1)).tenant == "acme"


def test_a_suspended_tenant_is_told_so_and_only_with_a_key_of_its_own():
    with pytest.raises(Forbidden) as refused:
        who(f"Bearer {KEY.text}", suspended=True)
    assert refused.value.code == "tenant_suspended"
    with pytest.raises(Unauthenticated):
        who(f"Bearer {OTHER.text}", suspended=True)


def test_a_key_of_a_tenant_that_is_gone_is_refused():
    with pytest.raises(Unauthenticated):
        who(f"Bearer {KEY.text}", deleted_at_s=1.0)


@pytest.mark.parametrize("text", ["private", "shared", "group:a", f"group:{'a' * 63}"])
def test_a_tenant_is_alone_in_a_group_or_shared(text):
    assert is_isolation(text)


@pytest.mark.parametrize(
    "text", ["", "Private", "group:", "group:A", "group", f"group:{'a' * 64}", "shared\n", " shared"]
)
def test_there_is_no_other_isolation(text):
    assert not is_isolation(text)


@pytest.mark.parametrize("name", ["a", "a-1", "9", "a" * 63])
def test_a_tenants_name_fits_into_urls_and_labels(name):
    assert is_tenant_name(name)


@pytest.mark.parametrize("name", ["", "-a", "A", "a" * 64, "a/b", "a\n", "ä"])
def test_other_names_are_refused(name):
    assert not is_tenant_name(name)

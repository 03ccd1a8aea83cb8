"""Prompts that begin with registered prefixes."""

from tests.core import MODEL, keys

from preble.daemon.ids import ModelName
from preble.daemon.sched.blocks import root_key
from preble.daemon.templates.beginnings import Beginnings

LONG, SHORT = "abcdefghijkl", "abcd"
A, B, C = (1, 1), (1, 2), (2, 1)
ROOT = root_key(MODEL)


def known(*put):
    beginnings = Beginnings()
    for owner, version, text in put:
        beginnings.put(MODEL, owner, version, ROOT, keys(text))
    return beginnings


def found(beginnings, text, owner=None, salt="", model=MODEL):
    return list(beginnings.find(model, owner, root_key(MODEL, salt=salt), keys(text, salt)))


def test_those_that_a_prompt_begins_with_are_found_in_any_cache_longest_first():
    beginnings = known((None, A, SHORT), (None, B, LONG), (None, C, LONG))
    for salt in ("", "a tenant's"):
        assert found(beginnings, LONG + "and more", salt=salt) == [(3, {B, C}), (1, {A})]
        assert found(beginnings, LONG, salt=salt) == [(3, {B, C}), (1, {A})]
        assert found(beginnings, LONG[:-1], salt=salt) == [(1, {A})]
        assert found(beginnings, "Abcdefghijkl", salt=salt) == []
        assert found(beginnings, "abc", salt=salt) == []


def test_owners_and_models_are_kept_apart():
    beginnings = known(("acme", A, LONG))
    assert found(beginnings, LONG, "acme") == [(3, {A})]
    assert found(beginnings, LONG, "zoo") == found(beginnings, LONG) == []
    assert found(beginnings, LONG, "acme", model=ModelName("other")) == []


def test_a_version_that_is_read_again_is_known_as_it_is_now():
    beginnings = known((None, A, LONG), (None, B, LONG), (None, A, SHORT), (None, B, ""))
    assert found(beginnings, LONG) == [(1, {A})]

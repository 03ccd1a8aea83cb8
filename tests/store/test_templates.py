"""Templates: immutable versions, labels, deletion, and what survives a restart."""

import numpy as np
import pytest
from sqlalchemy.exc import DatabaseError
from tests.admin_app import author

from preble.daemon.errors import Conflict, Forbidden, InvalidRequest, NotFound, PreconditionFailed
from preble.daemon.store import templates
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.audit import AuditFilter
from preble.daemon.store.templates import TemplateStore, TokenRow
from preble.daemon.wire.settings import TenantSettings
from preble.daemon.wire.templates import TemplateBody, TemplateMessage, Variable

HELLO = TemplateBody(text="Hello {{name}}", variables={"name": Variable(max_length=5)})
BYE = TemplateBody(
    messages=[TemplateMessage(role="system", content="Bye\0 é")], tools=[{"b": 1, "a": {"z": 1, "y": 2}}]
)


@pytest.fixture
async def accounts(database):
    accounts = await Accounts.load(database)
    for name in ("acme", "other"):
        await accounts.tenants.create(name, TenantSettings(), author())
    return accounts


@pytest.fixture
async def store(database, accounts):
    return await TemplateStore.load(database, accounts.audit, accounts.directory)


async def again(store, accounts):
    return await TemplateStore.load(store._engine, accounts.audit, accounts.directory)


async def numbers(store, owner, name, *bodies, at_s=2.0):
    return [(await store.register(owner, name, body, author(at_s))).value[1].number for body in bodies]


async def test_a_body_is_one_version_however_often_it_is_registered(store):
    assert await numbers(store, "acme", "a", HELLO, BYE, HELLO, BYE) == [1, 2, 1, 2]
    first = await store.register("acme", "a", HELLO, author(9.0))
    assert (first.is_new, first.value[0].changes, first.value[1].created_at_s) == (False, 2, 2.0)
    assert await numbers(store, "acme", "b", HELLO) == [1]


async def test_the_order_of_variables_is_nothing_and_that_of_tools_is(store):
    variables = {"a": Variable(), "b": Variable(default="x")}
    one = TemplateBody(text="{{a}} {{b}}", variables=variables)
    same = TemplateBody(text="{{a}} {{b}}", variables=dict(reversed(variables.items())))
    other = TemplateBody(messages=BYE.messages, tools=[{"a": {"z": 1, "y": 2}, "b": 1}])
    assert await numbers(store, None, "a", one, same, BYE, other) == [1, 1, 2, 3]


async def test_everything_survives_a_restart(store, accounts):
    await numbers(store, "acme", "a", HELLO, BYE)
    await numbers(store, None, "shared", BYE)
    await store.register("acme", "a", BYE, author(), description="what it is for")
    await store.label("acme", "a", "production", 1, author())
    await numbers(store, "acme", "gone", HELLO)
    await store.delete("acme", "gone", author(4.0))
    loaded = await again(store, accounts)
    assert loaded.directory._of == store.directory._of
    template = loaded.directory.visible("acme", "a")
    assert (template.description, template.labels, template.changes) == ("what it is for", {"production": 1}, 4)
    assert await loaded.body(template, template.version()) == HELLO
    kept = await loaded.body(template, template.latest)
    assert kept == BYE
    assert list(kept.tools[0]) == ["b", "a"]
    assert list(kept.tools[0]["a"]) == ["z", "y"]


async def test_a_deleted_name_can_be_registered_again_and_its_numbers_go_on(store, accounts):
    await numbers(store, "acme", "a", HELLO, BYE)
    await store.label("acme", "a", "production", 1, author())
    await store.delete("acme", "a", author(3.0))
    for each in (store, await again(store, accounts)):
        with pytest.raises(NotFound):
            each.directory.visible("acme", "a")
    fresh = await again(store, accounts)
    assert await numbers(fresh, "acme", "a", HELLO, at_s=4.0) == [3]
    for each in (fresh, await again(fresh, accounts)):
        template = each.directory.visible("acme", "a")
        assert (list(template.versions), template.labels, template.deleted_at_s) == ([3], {}, None)
        with pytest.raises(NotFound, match="has no version 1; its newest is 3"):
            template.version(1)


async def test_whoever_gets_the_name_of_a_tenant_gets_none_of_its_templates(store, accounts):
    await numbers(store, "acme", "a", HELLO, BYE)
    await accounts.tenants.delete("acme", author(5.0))
    assert store.directory.own("acme", "a") is None
    await accounts.tenants.create("acme", TenantSettings(), author(6.0))
    assert store.directory.all_visible("acme") == []
    assert await numbers(store, "acme", "a", BYE, at_s=7.0) == [1]
    template = (await again(store, accounts)).directory.visible("acme", "a")
    assert [version.created_at_s for version in template.versions.values()] == [7.0]


async def test_a_tenant_sees_its_own_first_then_the_operators_and_never_anothers(store):
    await numbers(store, None, "a", HELLO)
    await numbers(store, "other", "b", HELLO)
    assert store.directory.visible("acme", "a").owner is None
    await numbers(store, "acme", "a", BYE)
    assert store.directory.visible("acme", "a").owner == "acme"
    assert [(one.name, one.owner) for one in store.directory.all_visible("acme")] == [("a", "acme"), ("a", None)]
    assert [(one.name, one.owner) for one in store.directory.all_visible(None)] == [("a", None)]
    with pytest.raises(NotFound, match="no template 'b'"):
        store.directory.visible("acme", "b")
    await numbers(store, None, "abc", HELLO)
    with pytest.raises(NotFound, match="Did you mean 'abc'"):
        store.directory.visible("acme", "abd")


async def test_the_operators_templates_are_not_a_tenants_to_change(store):
    await numbers(store, None, "a", HELLO)
    with pytest.raises(Forbidden):
        await store.label("acme", "a", "production", 1, author())
    with pytest.raises(Forbidden):
        await store.delete("acme", "a", author())


async def test_a_label_moves_only_from_where_it_was_thought_to_be(store):
    await numbers(store, None, "a", HELLO, BYE)
    template = (await store.label(None, "a", "production", 1, author(), if_version={2})).value
    assert (template.version().number, template.version(label="latest").number, template.changes) == (1, 2, 3)
    with pytest.raises(PreconditionFailed):
        await store.label(None, "a", "production", 2, author(), if_version={2})
    assert (await store.label(None, "a", "production", 1, author(), if_version={3})).value is template
    moved = (await store.label(None, "a", "production", None, author(), if_version={3})).value
    assert (moved.version().number, moved.labels) == (2, {})
    with pytest.raises(PreconditionFailed):
        await store.delete(None, "a", author(), if_version={3})


@pytest.mark.parametrize("label", ["", "latest", "1", "A", "a b", "a" * 64, "a\n"])
async def test_what_can_be_no_label_is_refused(store, label):
    await numbers(store, None, "a", HELLO)
    with pytest.raises(InvalidRequest) as refused:
        await store.label(None, "a", label, 1, author())
    assert refused.value.param == "label"


async def test_labels_point_to_what_there_is(store):
    await numbers(store, None, "a", HELLO)
    for number, label in ((2, "x"), (None, "x")):
        with pytest.raises(NotFound):
            await store.label(None, "a", label, number, author())


@pytest.mark.parametrize("name", ["", "A", ".a", "a/b", "a" * 64, "a\n", "é"])
async def test_what_can_be_no_name_is_refused(store, name):
    with pytest.raises(InvalidRequest) as refused:
        await store.register(None, name, HELLO, author())
    assert refused.value.param == "name"


async def test_there_is_an_end_to_it(store, monkeypatch):
    monkeypatch.setattr(templates, "MAX_TEMPLATES", 1)
    monkeypatch.setattr(templates, "MAX_VERSIONS", 1)
    monkeypatch.setattr(templates, "MAX_LABELS", 1)
    await numbers(store, "acme", "a", HELLO)
    await store.label("acme", "a", "x", 1, author())
    with pytest.raises(Conflict, match="templates"):
        await numbers(store, "acme", "b", HELLO)
    with pytest.raises(Conflict, match="versions"):
        await numbers(store, "acme", "a", BYE)
    with pytest.raises(Conflict, match="labels"):
        await store.label("acme", "a", "y", 1, author())
    assert await numbers(store, None, "b", HELLO) == [1]


async def test_what_is_only_tried_changes_nothing_and_is_told(store, accounts):
    tried = await store.register("acme", "a", HELLO, author(), dry_run=True)
    assert (tried.is_new, tried.change.after["version"]) == (True, 1)
    assert store.directory.all_visible("acme") == []
    await numbers(store, "acme", "a", HELLO)
    tried = await store.label("acme", "a", "production", 1, author(), dry_run=True)
    assert (tried.change.before["labels"], tried.change.after["labels"]) == ({}, {"production": 1})
    assert (await store.delete("acme", "a", author(), dry_run=True)).change.after is None
    assert (await again(store, accounts)).directory._of == store.directory._of
    assert store.directory.visible("acme", "a").changes == 1


async def test_the_audit_has_every_change_with_its_owner(store, accounts):
    await numbers(store, "acme", "a", HELLO, HELLO, BYE)
    await store.register("acme", "a", BYE, author(), description="x")
    await store.label("acme", "a", "production", 2, author())
    await store.delete("acme", "a", author())
    rows = (await accounts.audit.rows(AuditFilter(tenant="acme"), 100))[::-1][1:]
    made = ["register", "register", "update", "label", "delete"]
    assert [row.action for row in rows] == [f"template.{action}" for action in made]
    assert {row.target for row in rows} == {"a"}
    assert (rows[2].before["description"], rows[2].after["description"]) == ("", "x")


async def test_what_the_database_does_not_take_is_not_believed_in_memory(store, monkeypatch):
    async def fail(*_):
        raise DatabaseError("x", {}, Exception())

    monkeypatch.setattr(store._audit, "write", fail)
    with pytest.raises(DatabaseError):
        await numbers(store, "acme", "a", HELLO)
    assert store.directory.all_visible("acme") == []


async def test_tokens_are_kept_by_model_and_replaced(store):
    template, version = (await store.register(None, "a", HELLO, author())).value
    assert await store.tokens(template, version, "m") is None
    for fingerprint in (b"1", b"2"):
        prefix = np.array([0, 1, 2**32 - 1], dtype=np.uint32)
        await store.put_tokens(
            template, version, "m", TokenRow(fingerprint=fingerprint, tokens=4, prefix=prefix, advice=[{"x": 1}])
        )
    found = await store.tokens(template, version, "m")
    assert (found.fingerprint, found.tokens, found.advice) == (b"2", 4, [{"x": 1}])
    assert found.prefix.dtype == np.uint32
    assert found.prefix.tolist() == [0, 1, 2**32 - 1]
    assert await store.tokens(template, version, "n") is None


async def test_bodies_that_are_forgotten_are_read_again(store, monkeypatch):
    monkeypatch.setattr(templates, "_BODIES_KEPT", 1)
    pairs = [(await store.register(None, "a", body, author())).value for body in (HELLO, BYE)]
    for (template, version), body in [*zip(pairs, (HELLO, BYE), strict=True)] * 2:
        assert await store.body(template, version) == body
        assert len(store._bodies) == 1

"""Templates over HTTP: who sees what, what is reported, and that nothing is lost or changed unasked."""

import pytest
from tests.api.calling import Caller, problem
from tests.core import BLOCK, MODEL

TENANTS, OPERATORS = "/v1/templates", "/admin/v1/templates"
LONG = "abcdefghij" * 20


def chat(*contents, **fields):
    messages = [{"role": "system" if at == 0 else "user", "content": text} for at, text in enumerate(contents)]
    return {"name": "a", "messages": messages, **fields}


async def analysed(caller, body, path=TENANTS):
    made = await caller.post(path, body)
    assert made.status_code == 201, made.text
    [analysis] = made.json()["analyses"]
    assert analysis["problem"] is None
    return analysis


@pytest.fixture
async def other(operator, anyone):
    """Another tenant."""
    await operator.post("/admin/v1/tenants", {"name": "other"})
    made = await operator.post("/admin/v1/keys", {"tenant": "other"})
    return Caller(anyone, made.json()["key"])


async def test_what_comes_before_the_first_variable_can_be_cached_in_whole_blocks(tenant):
    found = await analysed(tenant, chat(LONG, "{{question}}"))
    prefix = 1 + len(LONG) + 1 + 1  # a token of the role, the text, its end, and the next role
    assert (found["model"], found["block_tokens"], found["prefix_tokens"]) == (MODEL, BLOCK, prefix)
    assert found["cacheable_tokens"] == prefix - prefix % BLOCK
    assert found["tokens"] == prefix + 1
    assert found["cacheable_ratio"] == found["cacheable_tokens"] / found["tokens"]
    assert (found["shares"], found["advice"]) == ([], [])


async def test_neither_the_generation_prompt_nor_what_follows_is_part_of_it(tenant):
    found = await analysed(tenant, chat(LONG))
    assert found["prefix_tokens"] == found["tokens"] == 1 + len(LONG) + 1


async def test_a_text_is_for_completions(tenant):
    found = await analysed(tenant, {"name": "a", "text": f"{LONG}{{{{x}}}}{LONG}"})
    assert (found["prefix_tokens"], found["tokens"]) == (len(LONG), 2 * len(LONG))


async def test_a_variable_that_comes_too_early_is_advised_against(tenant):
    found = await analysed(tenant, chat(f"{{{{today}}}} {LONG} {{{{name}}}}", "{{question}}"))
    assert found["cacheable_tokens"] == 0
    [advice] = found["advice"]
    assert (advice["variables"], advice["more_tokens"]) == (["today"], (1 + 1 + len(LONG) + 1) // BLOCK * BLOCK)
    assert "{{today}}" in advice["text"]


async def test_templates_that_begin_alike_are_told_and_where_they_part(operator, tenant, other):
    await analysed(operator, chat(LONG + "X", name="shared"), OPERATORS)
    await analysed(other, chat(LONG + "Z", name="hidden"))
    await analysed(tenant, chat("zzz", name="different"))
    found = await analysed(tenant, chat(LONG + "Y", name="own"))
    [share] = found["shares"]
    assert share == {
        "name": "shared",
        "owner": None,
        "version": 1,
        "shared_tokens": 1 + len(LONG),
        "ours": "Y",
        "theirs": "X",
    }


async def test_the_same_again_is_the_same_version(tenant):
    made = await tenant.post(TENANTS, chat("a {{b}}", description="first"))
    again = await tenant.post(TENANTS, chat("a {{b}}"))
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert made.headers["etag"] == '"1"'
    retold = await tenant.post(TENANTS, chat("a {{b}}", description="second"))
    assert (retold.status_code, retold.json()["version"], retold.json()["description"]) == (200, 1, "second")
    other = await tenant.post(TENANTS, chat("a {{c}}"))
    assert (other.status_code, other.json()["version"], other.json()["changes"]) == (201, 2, 3)


async def test_versions_and_labels(tenant):
    for text in ("a", "b", "c"):
        await tenant.post(TENANTS, chat(text))
    moved = await tenant.send("PUT", f"{TENANTS}/a/labels/production", json={"version": 2}, headers={"if-match": '"3"'})
    assert (moved.status_code, moved.headers["etag"], moved.json()["labels"]) == (200, '"4"', {"production": 2})
    late = await tenant.send("PUT", f"{TENANTS}/a/labels/production", json={"version": 1}, headers={"if-match": '"3"'})
    assert (late.status_code, problem(late)["code"]) == (412, "precondition_failed")
    shown = {query: (await tenant.get(f"{TENANTS}/a", **dict([query]))).json()["version"] for query in [
        ("version", 1), ("label", "latest"), ("label", "production"), ("x", "")
    ]}  # fmt: skip
    assert list(shown.values()) == [1, 3, 2, 2]
    page = (await tenant.get(f"{TENANTS}/a/versions", limit=2)).json()
    assert [(row["version"], row["labels"]) for row in page["rows"]] == [(3, ["latest"]), (2, ["production"])]
    rest = (await tenant.get(f"{TENANTS}/a/versions", before=page["next"])).json()
    assert ([row["version"] for row in rest["rows"]], rest["next"]) == ([1], None)
    removed = await tenant.delete(f"{TENANTS}/a/labels/production")
    assert removed.json()["labels"] == {}
    assert (await tenant.get(f"{TENANTS}/a", version=1, label="x")).status_code == 400
    assert (await tenant.get(f"{TENANTS}/a", version=4)).status_code == 404


async def test_a_deleted_template_is_gone_and_its_numbers_are_not_given_again(tenant):
    await tenant.post(TENANTS, chat("a"))
    assert (await tenant.delete(f"{TENANTS}/a", headers={"if-match": '"9"'})).status_code == 412
    assert (await tenant.delete(f"{TENANTS}/a")).json()["name"] == "a"
    assert (await tenant.get(f"{TENANTS}/a")).status_code == 404
    assert (await tenant.post(TENANTS, chat("a"))).json()["version"] == 2


async def test_a_tenants_templates_are_not_there_for_others(tenant, other, operator):
    await tenant.post(TENANTS, chat("a"))
    assert [
        (await other.get(f"{TENANTS}/a")).status_code,
        (await other.get(f"{TENANTS}/a/versions")).status_code,
        (await other.delete(f"{TENANTS}/a")).status_code,
        (await other.post(f"{TENANTS}/a/render", {})).status_code,
        (await operator.get(f"{OPERATORS}/a")).status_code,
        (await operator.get(f"{OPERATORS}/a", tenant="default")).status_code,
        (await operator.get(f"{OPERATORS}/a", tenant="nobody")).status_code,
    ] == [404, 404, 404, 404, 404, 200, 404]
    assert (await other.get(TENANTS)).json()["rows"] == []


async def test_the_operators_are_everybodys_to_use_and_nobodys_to_change(operator, tenant):
    await operator.post(OPERATORS, chat("shared"))
    assert (await tenant.get(f"{TENANTS}/a")).json()["owner"] is None
    assert (await tenant.delete(f"{TENANTS}/a")).status_code == 403
    await tenant.post(TENANTS, chat("own"))
    assert (await tenant.get(f"{TENANTS}/a")).json()["owner"] == "default"
    pages = [(await tenant.get(TENANTS, limit=1)).json()]
    pages.append((await tenant.get(TENANTS, limit=1, after=pages[0]["next"])).json())
    assert [row["owner"] for page in pages for row in page["rows"]] == ["default", None]
    assert pages[1]["next"] is None


async def test_a_key_needs_the_scope(operator, anyone):
    made = await operator.post("/admin/v1/keys", {"tenant": "default", "scopes": ["inference"]})
    refused = await Caller(anyone, made.json()["key"]).get(TENANTS)
    assert (refused.status_code, "templates" in problem(refused)["message"]) == (403, True)
    assert (await operator.get(TENANTS)).status_code == 403


async def test_a_dry_run_changes_nothing(tenant):
    tried = await tenant.post(TENANTS, chat("a"), dry_run=True)
    assert (tried.status_code, tried.json()["after"]["version"]) == (200, 1)
    assert (await tenant.get(TENANTS)).json()["rows"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a"}, "text"),
        ({"name": "A", "text": "a"}, "name"),
        ({"name": "a", "text": ""}, "text"),
        ({"name": "a", "messages": []}, "messages"),
        ({"name": "a", "messages": [{"role": "boss", "content": "a"}]}, "messages[0].role"),
        ({"name": "a", "text": "{{b}}", "variables": {"b": {"type": "list"}}}, "variables[...].type"),
        ({"name": "a", "text": "b", "variables": {"b": {}}}, "variables.b"),
        ({"name": "a", "text": "a", "extra": 1}, "extra"),
        ({"name": "a", "text": "a" * (1 << 20)}, "text"),
        ({"name": "a", "text": "a", "description": "\0"}, "description"),
        ({"name": "a", "text": "a" * 10_000}, "messages"),
        ({"name": "a", "text": "a", "model": "nothing"}, "model"),
    ],
)
async def test_what_is_no_template_is_refused_by_the_field(tenant, body, param):
    refused = await tenant.post(TENANTS, body)
    assert (refused.status_code, problem(refused)["param"]) == (404 if param == "model" else 400, param)


async def test_rendering_is_what_a_request_would_have(tenant):
    await tenant.post(TENANTS, chat("Hi {{name}}", "{{n}}", variables={"n": {"type": "integer", "default": 3}}))
    done = await tenant.post(f"{TENANTS}/a/render", {"variables": {"name": "Ann"}})
    assert [message["content"] for message in done.json()["messages"]] == ["Hi Ann", "3"]
    for value in ("<|end|>", "<pad>"):
        refused = await tenant.post(f"{TENANTS}/a/render", {"variables": {"name": value}})
        assert (refused.status_code, problem(refused)["param"]) == (400, "template.variables.name")


async def test_the_audit_names_the_key(tenant, operator):
    await tenant.post(TENANTS, chat("a"))
    [newest, *_] = (await operator.get("/admin/v1/audit")).json()["rows"]
    assert (newest["action"], newest["target"], newest["tenant"]) == ("template.register", "a", "default")

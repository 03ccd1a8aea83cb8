"""`preble template warm`, against a daemon's real routes."""

from uuid import uuid4

import pytest
from tests.cli.running import data, preble

from preble.daemon.cli.output import Exit

LONG = "You are a terse assistant.\nAnswer in one line.\n" * 10


@pytest.fixture
def tenant(daemon):
    """One that no other test has."""
    name = f"t{uuid4().hex[:12]}"
    preble("tenant", "create", name)
    return name


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "terse.txt"
    path.write_text(LONG + "{{x}}")
    return path


def test_a_template_is_warmed_where_one_asks(tenant, file):
    data("template", "register", file, "--tenant", tenant)
    dry = data("template", "warm", "terse", "--tenant", tenant, "--gpus", "all", "--dry-run")
    assert [row["state"] for row in dry["rows"]] == ["cold", "cold"]
    done = data("template", "warm", "terse@1", "--tenant", tenant, "--gpus", "2")
    assert [(row["gpu"], row["state"]) for row in sorted(done["rows"], key=lambda row: row["gpu"])] == [
        ("gpu0", "warm"),
        ("gpu1", "warm"),
    ]
    shown = preble("template", "warm", "terse@latest", "--tenant", tenant)
    assert (shown.exit_code, "warm" in shown.stdout) == (0, True), shown.output


def test_with_a_tenants_key_it_is_the_tenants(tenant, file):
    key = data("key", "create", tenant)["key"]
    data("template", "register", file, PREBLE_KEY=key)
    assert data("template", "warm", "terse", PREBLE_KEY=key)["tenant"] == tenant


def test_what_cannot_be_is_refused(tenant, file):
    data("template", "register", file, "--tenant", tenant)
    assert preble("template", "warm", "terse", "--tenant", tenant, "--gpus", "few").exit_code == Exit.USAGE
    for arguments in (["terse", "--gpus", "3", "--tenant", tenant], ["nothing", "--tenant", tenant], ["terse"]):
        result = preble("template", "warm", *arguments)
        assert (result.exit_code, result.stdout) == (Exit.REFUSED, ""), result.output


def test_a_template_is_pinned_and_let_go(tenant, file):
    data("template", "register", file, "--tenant", tenant)
    dry = data("template", "pin", "terse", "--tenant", tenant, "--dry-run")
    assert (dry["action"], dry["after"]["replicas"]) == ("template.pin", 1)
    row = data("template", "pin", "terse", "--tenant", tenant, "--max-replicas", "2", "--ttl", "1h")
    assert (row["tenant"], row["replicas"], row["max_replicas"]) == (tenant, 1, 2)
    assert row["expires_at"] is not None
    data("template", "pin", "terse@1", "--tenant", tenant)
    assert [each["reference"] for each in data("template", "pins", "terse", "--tenant", tenant)] == [None, "1"]
    for arguments in (["pins", "terse"], ["pin", "terse@latest"]):
        shown = preble("template", *arguments, "--tenant", tenant)
        assert (shown.exit_code, "terse" in shown.stdout) == (0, True), shown.output
    unpin = ("template", "unpin", "terse", "--tenant", tenant)
    assert [row["reference"] for row in data(*unpin)["rows"]] == [None]
    refused = preble(*unpin)
    assert (refused.exit_code, "terse@1 of " in refused.stderr) == (Exit.REFUSED, True), refused.output
    assert len(data(*unpin, "--all", "--dry-run")["before"]["pins"]) == 2
    assert len(data("template", "unpin", "terse@1", "--tenant", tenant)["rows"]) == 1
    assert preble(*unpin, "--all", "--model", "another").exit_code == Exit.REFUSED
    assert preble("template", "unpin", "terse@1", "--all", "--tenant", tenant).exit_code == Exit.USAGE
    assert preble(*unpin, "--all").exit_code == 0
    assert data("template", "pins", "terse", "--tenant", tenant) == []


def test_how_much_may_be_pinned_is_a_limit(tenant, file):
    data("template", "register", file, "--tenant", tenant)
    data("tenant", "update", tenant, "--pinned-tokens", "10")
    result = preble("template", "pin", "terse", "--tenant", tenant)
    assert (result.exit_code, "10 allowed" in result.stderr) == (Exit.REFUSED, True), result.output
    assert preble("template", "pin", "terse", "--tenant", tenant, "--ttl", "soon").exit_code == Exit.USAGE


def test_what_templates_saved_is_shown(tenant, file):
    data("template", "register", file, "--tenant", tenant)
    data("template", "pin", "terse@1", "--tenant", tenant)
    assert data("template", "stats", "nothing", "--tenant", tenant) == []
    while not (rows := data("template", "stats", "--tenant", tenant)):
        pass
    assert {"name", "version", "requests", "hit_ratio", "tokens_saved", "warm_on"} <= rows[0].keys()
    assert (rows[0]["name"], rows[0]["requests"], rows[0]["pinned"]) == ("terse", 0, True)
    shown = preble("template", "stats", "--tenant", tenant)
    assert (shown.exit_code, "terse@1" in shown.stdout) == (0, True), shown.output

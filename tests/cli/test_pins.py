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

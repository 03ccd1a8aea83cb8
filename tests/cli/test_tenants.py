"""`preble tenant`, `preble key` and `preble audit`, against a daemon's real admin routes."""

from uuid import uuid4

import httpx
import pytest
from tests.cli.running import data, preble

from preble.daemon.cli.changes import LIMITS, difference
from preble.daemon.cli.keys import _SCOPES
from preble.daemon.cli.output import Exit
from preble.daemon.tenancy.model import Scope
from preble.daemon.wire.settings import Limits


@pytest.fixture
def name(daemon):
    """A tenant that no other test has."""
    made = f"t{uuid4().hex[:12]}"
    assert preble("tenant", "create", made).exit_code == 0
    return made


def works(daemon, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{daemon.url}/v1/usage", headers=headers).status_code == 200


def refusal(*arguments: str, code: Exit = Exit.REFUSED) -> str:
    result = preble(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr


def test_there_is_an_option_for_every_limit_and_every_scope():
    assert {*LIMITS, "models"} == set(Limits.__struct_fields__)
    assert set(_SCOPES) == set(Scope)


# --- tenants ---


def test_a_tenant_is_made_shown_and_listed(daemon):
    made = preble("tenant", "create", "made")
    assert made.stdout.splitlines()[1].split()[:6] == ["made", "active", "1.0", "interactive", "private", "0"]
    assert made.stderr == "next: preble key create made\n"
    assert preble("tenant", "create", "made").exit_code == 0, "it is there, and the same"
    assert "other settings" in refusal("tenant", "create", "made", "--weight", "2")
    assert data("tenant", "show", "made")["name"] == "made"
    assert {"acme", "default", "made"} <= {row["name"] for row in data("tenant", "list")}


def test_all_settings_are_options(daemon):
    limits = [text for name in LIMITS for text in (f"--{name.replace('_', '-')}", "7")]
    models = ["--model", "a", "--model", "b"]
    settings = ["--weight", "0.5", "--priority", "batch", "--isolation", "group:g"]
    row = data("tenant", "create", f"t{uuid4().hex[:12]}", *settings, *limits, *models)
    assert (row["weight"], row["priority"], row["isolation"]) == (0.5, "batch", "group:g")
    assert row["limits"] == {**dict.fromkeys(LIMITS, 7), "models": ["a", "b"]}


def test_only_what_is_named_changes_and_none_lifts_a_limit(name):
    data(
        "tenant",
        "update",
        name,
        "--weight",
        "3",
        "--requests-per-minute",
        "60",
        "--model",
        "m",
        "--queued-requests",
        "0",
    )
    row = data("tenant", "update", name, "--requests-per-minute", "none", "--all-models")
    assert (row["weight"], row["limits"]["requests_per_minute"], row["limits"]["models"]) == (3.0, None, None)
    assert row["limits"]["queued_requests"] == 0
    shown = [line.split() for line in preble("tenant", "show", name).stdout.splitlines()]
    assert ["weight", "3.0"] in shown
    assert ["queued", "requests", "0"] in shown
    assert not [line for line in shown if line[:2] == ["requests", "per"]]


def test_a_version_that_has_passed_is_refused(name):
    data("tenant", "update", name, "--weight", "2", "--if-version", "1")
    assert "version 2" in refusal("tenant", "update", name, "--weight", "3", "--if-version", "1")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--weight", "0"],
        ["--priority", "urgent"],
        ["--requests-per-minute", "x"],
        ["--requests-per-minute", "-1"],
        ["--model", "m", "--all-models"],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(daemon, arguments):
    refusal("tenant", "update", "acme", *arguments, code=Exit.USAGE)


def test_what_would_change_is_said_in_a_line_and_not_done(name):
    tried = preble("tenant", "update", name, "--weight", "4", "--tokens-per-day", "9", "--dry-run")
    assert tried.stdout == f"tenant.update {name}: weight 1.0 -> 4.0, tokens_per_day - -> 9\n"
    assert preble("tenant", "update", name, "--weight", "1", "--dry-run").stdout.endswith("nothing would change\n")
    assert preble("tenant", "delete", name, "--dry-run").stdout == f"tenant.delete {name}: it would be gone\n"
    assert "salt_epoch 0 -> 1" in preble("tenant", "rotate-salt", name, "--dry-run").stdout
    assert "suspended False -> True" in preble("tenant", "suspend", name, "--dry-run").stdout
    planned = data("tenant", "create", "planned", "--weight", "2", "--dry-run")
    assert (planned["dry_run"], planned["before"], planned["after"]["weight"]) == (True, None, 2.0)
    assert "next:" not in preble("tenant", "create", "planned", "--dry-run").stderr
    assert "planned" not in preble("tenant", "list").stdout
    assert data("tenant", "show", name)["version"] == 1


def test_a_tenant_is_suspended_and_resumed(daemon, name):
    key = data("key", "create", name)["key"]
    assert data("tenant", "suspend", name)["suspended"] is True
    assert "suspended" in preble("tenant", "list").stdout
    assert not works(daemon, key)
    assert data("tenant", "resume", name)["suspended"] is False
    assert works(daemon, key)


def test_a_salt_is_rotated(name):
    assert data("tenant", "rotate-salt", name)["salt_epoch"] == 1


def test_a_tenant_with_keys_is_deleted_only_with_them(daemon, name):
    key = data("key", "create", name)["key"]
    assert "working key" in refusal("tenant", "delete", name)
    deleted = preble("tenant", "delete", name, "--revoke-keys")
    assert (deleted.exit_code, deleted.stderr) == (0, f"tenant {name} is deleted\n")
    assert not works(daemon, key)
    refusal("tenant", "show", name)


# --- keys ---


def test_a_key_is_all_that_stdout_has_so_that_it_can_be_kept_in_a_variable(daemon):
    result = preble("key", "create", "acme", "--name", "app")
    key = result.stdout.removesuffix("\n")
    assert works(daemon, key)
    assert "not shown again" in result.stderr
    assert key not in result.stderr
    assert key not in preble("key", "list", "--json").stdout


def test_a_revoked_key_no_longer_works(daemon):
    created = data("key", "create", "acme", "--expires-days", "1.5")
    assert created.keys() >= {"key", "id", "tenant"}
    row = next(row for row in data("key", "list", "--tenant", "acme") if row["id"] == created["id"])
    assert row["expires_at"] > row["created_at"]
    assert data("key", "revoke", created["id"])["revoked_at"] is not None
    assert not works(daemon, created["key"])


def test_an_operators_key_has_no_tenant_and_says_so(daemon):
    assert "(operator)" in preble("key", "list").stdout
    made = data("key", "create", "--operator", "--scope", "admin:read")
    assert (made["tenant"], made["scopes"]) == (None, ["admin:read"])
    assert preble("tenant", "list", PREBLE_KEY=made["key"]).exit_code == 0
    assert preble("tenant", "create", "x", PREBLE_KEY=made["key"]).exit_code == Exit.REFUSED


@pytest.mark.parametrize(
    "arguments", [[], ["acme", "--operator"], ["acme", "--idempotency-key", "\n"], ["acme", "--scope", "x"]]
)
def test_a_key_that_cannot_be_meant_is_a_usage_error(daemon, arguments):
    refusal("key", "create", *arguments, code=Exit.USAGE)


def test_a_request_that_is_sent_again_makes_no_second_key(name):
    first, again = [preble("key", "create", name, "--idempotency-key", f"once for {name}") for _ in range(2)]
    assert first.stdout != ""
    assert (again.exit_code, again.stdout) == (0, "")
    assert "was made before" in again.stderr
    assert data("tenant", "show", name)["keys"] == 1


def test_a_key_is_rotated_with_an_overlap(daemon, name):
    old = data("key", "create", name, "--name", "app", "--tokens-per-day", "9")
    rotated = preble("key", "rotate", old["id"], "--overlap", "1h")
    assert rotated.stdout.count("\n") == 1
    assert "works for another 3600 s" in rotated.stderr
    assert works(daemon, old["key"])
    assert works(daemon, rotated.stdout.strip())
    row = data("key", "show", old["id"])
    new = data("key", "show", row["replaced_by"])
    assert (row["expires_at"] is not None, new["name"], new["limits"]["tokens_per_day"]) == (True, "app", 9)
    assert row["replaced_by"] in refusal("key", "rotate", old["id"])


@pytest.mark.parametrize("span", ["", "1", "h", "-1h", "nanh", "1e999d", "1y"])
def test_a_span_that_is_none_is_a_usage_error_that_shows_how_to_write_one(daemon, span):
    assert "30m, 24h, 7d" in refusal("key", "rotate", "x", "--overlap", span, code=Exit.USAGE)


def test_a_key_is_changed(daemon, name):
    made = data("key", "create", name, "--expires-days", "1")
    row = data("key", "update", made["id"], "--name", "web", "--scope", "inference", "--concurrent-requests", "2")
    assert (row["name"], row["scopes"], row["limits"]["concurrent_requests"]) == ("web", ["inference"], 2)
    assert row["expires_at"] == made["expires_at"]
    assert data("key", "update", made["id"], "--expires-days", "9")["expires_at"] > made["expires_at"]
    assert data("key", "update", made["id"], "--never-expires")["expires_at"] is None
    assert "name web -> x" in preble("key", "update", made["id"], "--name", "x", "--dry-run").stdout
    assert "concurrent requests" in preble("key", "show", made["id"]).stdout
    assert "None of its requests runs or waits" in preble("key", "revoke", made["id"], "--dry-run").stdout
    refusal("key", "update", made["id"], code=Exit.USAGE)
    refusal("key", "update", made["id"], "--never-expires", "--expires-days", "1", code=Exit.USAGE)


# --- the audit ---


def test_the_audit_says_who_changed_what(daemon, name):
    data("tenant", "update", name, "--weight", "3")
    newest, first = data("audit", "--tenant", name)
    assert (newest["action"], newest["before"]["weight"], newest["after"]["weight"]) == ("tenant.update", 1.0, 3.0)
    assert first["action"] == "tenant.create"
    assert newest["actor"] in {row["id"] for row in data("key", "list") if row["tenant"] is None}
    line = preble("audit", "--tenant", name).stdout.splitlines()[1]
    assert "weight 1.0 -> 3.0" in line
    assert newest["request_id"] in line


def test_the_audit_is_as_long_as_asked_and_no_longer(daemon, name, monkeypatch):
    monkeypatch.setattr("preble.daemon.wire.client._WHOLE_PAGE", "2")
    for weight in ("2", "3", "4"):
        data("tenant", "update", name, "--weight", weight)
    assert [row["action"] for row in data("audit", "--tenant", name)] == ["tenant.update"] * 3 + ["tenant.create"]
    assert [row["after"]["weight"] for row in data("audit", "--tenant", name, "--limit", "3")] == [4.0, 3.0, 2.0]
    assert data("audit", "--tenant", name, "--since", "1h")
    assert data("audit", "--tenant", name, "--since", "2999-01-01") == []
    assert {row["name"] for row in data("tenant", "list")} >= {"acme", "default", name}, "of several pages"
    assert len(data("key", "list")) > 2


def test_a_difference_is_told_in_words():
    assert difference({"a": 1, "b": [1, 2], "c": None}, {"a": 2, "b": [1], "c": None}) == "a 1 -> 2, b 1 2 -> 1"
    assert difference(None, {"a": 1, "limits": {"b": 2}, "name": ""}) == "a 1, b 2"

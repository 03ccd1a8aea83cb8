"""What commands print where, against a daemon's real admin routes."""

import json

import click
import pytest
from click.testing import CliRunner
from tests.cli.running import data, preble
from tests.core import MODEL

from preble.daemon.cli.main import main
from preble.daemon.cli.output import Exit


def leaves(command: click.Command, *path: str):
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, *path, name)
    else:
        yield " ".join(path), command


COMMANDS = dict(leaves(main))


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"serve", "demo-feed"}))
def test_every_command_that_prints_data_prints_it_as_json_too(name):
    assert any("--json" in option.opts for option in COMMANDS[name].params)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_says_what_it_is_for(name):
    assert COMMANDS[name].help
    assert all(option.help for option in COMMANDS[name].params if isinstance(option, click.Option))


# --- GPUs ---


def test_gpus_are_listed_with_what_the_contract_promises(daemon):
    first, second = data("gpu", "list")
    wanted = {"gpu", "state", "model", "running", "waiting", "kv_used_ratio", "hit_ratio", "load_ms", "ttft_p50_ms"}
    assert wanted <= first.keys()
    assert (second["state"], second["kv_used_ratio"]) == ("down", None)


def test_a_table_has_a_line_per_gpu_and_what_is_not_known_is_a_dash(daemon):
    result = preble("gpu", "list")
    head, first, second = result.stdout.splitlines()
    assert head.split()[:3] == ["gpu", "state", "model"]
    assert first.split() == [
        "cpu0",
        "ready",
        "preble-demo",
        "3",
        "1",
        "25",
        "81",
        "93",
        "1620",
        "42",
        "7/-",
        first.split()[-1],
    ]
    assert second.split()[5:10] == ["-", "81", "93", "1620", "-"]
    assert result.stderr == "cpu1: exited with status 1\n"


def test_orders_for_a_gpu_print_how_it_is_then(daemon):
    assert data("gpu", "drain", "cpu0")["draining"] is True
    assert data("gpu", "undrain", "cpu0")["draining"] is False
    assert data("gpu", "restart", "cpu0")["restarts"] == 1
    restarted = preble("gpu", "restart", "cpu0")
    assert restarted.stdout.splitlines()[1].startswith("cpu0")
    assert "waiting" in restarted.stderr


# --- usage and decisions ---


def test_usage_is_totals_and_on_request_the_newest_requests(daemon):
    totals = preble("usage").stdout
    assert [line.split()[:2] for line in totals.splitlines()[1:]] == [["acme", "3"], ["default", "1"]]
    assert "req_" not in totals
    assert "req_3" in preble("usage", "--limit", "1").stdout
    page = data("usage", "--tenant", "acme")
    assert [row["request_id"] for row in page["rows"]] == ["req_2", "req_1", "req_0"]


@pytest.mark.parametrize(("since", "tenants"), [("1h", ["default"]), ("7d", ["acme", "default"]), ("2020-01-01", None)])
def test_usage_since_takes_ages_and_dates(daemon, since, tenants):
    assert [row["tenant"] for row in data("usage", "--since", since)["totals"]] == (tenants or ["acme", "default"])


def test_usage_is_summed_by_whatever_is_asked_for(daemon):
    assert [row["tenant"] for row in data("usage", "--by", "tenant")["totals"]] == ["acme", "default"]
    assert [row["key_id"] for row in data("usage", "--by", "key")["totals"]] == ["k", "k"]
    hours = data("usage", "--by", "hour")["totals"]
    assert [row["requests"] for row in hours] == [1, 3]
    assert hours[0]["start"] > hours[1]["start"]
    assert data("usage", "--by", "month", "--until", "1h")["totals"][0]["requests"] == 3
    assert data("usage", "--by", "day", "--model", "other")["totals"] == []
    head, *rows = preble("usage", "--by", "hour", "--tenant", "acme").stdout.splitlines()
    assert head.split()[:3] == ["hour", "(UTC)", "requests"]
    assert (len(rows), rows[0].split()[2]) == (1, "3")
    assert "cost" not in head


def test_usage_of_a_key_or_a_model(daemon):
    assert data("usage", "--key", "k", "--model", "preble-demo", "--tenant", "acme")["totals"][0]["requests"] == 3
    assert preble("usage", "--key", "nobody").exit_code == Exit.REFUSED


def test_usage_as_csv_is_one_table(daemon):
    head, *rows = preble("usage", "--by", "key", "--csv").stdout.splitlines()
    assert head.startswith("tenant,key_id,model,start,requests,")
    assert [row.split(",")[:2] for row in rows] == [["acme", "k"], ["default", "k"]]
    head, *rows = preble("usage", "--limit", "2", "--csv").stdout.splitlines()
    assert [row.split(",")[0] for row in (head, *rows)] == ["request_id", "req_3", "req_2"]
    for wrong in (["--json"], ["--by", "day", "--limit", "1"]):
        assert preble("usage", "--csv", *wrong).exit_code == Exit.USAGE


@pytest.mark.parametrize("since", ["", "yesterday", "h", "nanh", "1e400d", "2026-13-01"])
def test_a_time_that_is_none_is_a_usage_error_that_shows_how_to_write_one(since):
    result = preble("usage", "--since", since)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert "2026-11-21T14:02" in result.stderr


def test_a_decision_is_explained_with_every_candidate_and_what_happened(daemon):
    told = data("explain", "req_1")
    assert (told["gpu"], told["mode"], told["actual"]["cached_tokens"]) == ("gpu0", "exploit", 2400)
    assert {"gpu", "cached_tokens", "missed_tokens", "load_ms", "evict_ms", "prefill_ms"} <= told["candidates"][
        0
    ].keys()


def test_an_explanation_for_people_says_why_each_of_the_others_lost(daemon):
    text = preble("explain", "req_1").stdout
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("gpu")}
    assert list(rows) == ["gpu0", "gpu5", "gpu1"]
    assert rows["gpu0"].endswith("chosen")
    assert rows["gpu5"].endswith("does not cache the biggest part")
    assert rows["gpu1"].endswith("costs 200.0 ms more")
    assert "EXPLOIT on gpu0: 2410 tokens are cached" in text
    assert "2,400 tokens found by the engine, 2,410 predicted: 10 fewer" in text
    assert "1,900.0 ms waiting, 500.0 ms in the engine to the first token (prefill predicted: 96.0)" in text
    assert "61 tokens, 64 predicted" in text


def test_an_explanation_from_before_answers_were_predicted_shows_what_it_has(daemon):
    text = preble("explain", "req_old").stdout
    assert "61 tokens\n" in text
    assert "predicted" not in text.partition("output")[2]


# --- dry runs ---

BODIES = {
    "a chat": {"model": MODEL, "messages": [{"role": "user", "content": "x" * 40}]},
    "a completion": {"model": MODEL, "prompt": "x" * 40},
}


@pytest.fixture(params=BODIES.values(), ids=BODIES)
def body(request, tmp_path):
    file = tmp_path / "body.json"
    file.write_text(json.dumps(request.param))
    return file


def test_a_dry_run_is_explained_like_a_request_without_what_happened(daemon, body):
    told = data("explain", "--dry-run", str(body))
    assert told.keys() == data("explain", "req_1").keys()
    assert (told["gpu"], told["mode"], told["prompt_tokens"], told["actual"]) == ("gpu0", "explore", 40, None)
    assert data("explain", "--dry-run", str(body), "--tenant", "acme")["candidates"] == told["candidates"]


def test_a_dry_run_for_people_says_what_would_happen_and_that_nothing_did(daemon, body):
    text = preble("explain", "--dry-run", str(body)).stdout
    assert text.startswith("Dry run  m, 40 prompt tokens, ")
    assert "EXPLORE on gpu0: 0 tokens are cached and 40 are not" in text
    assert "What would happen: it was not run" in text
    assert "0.0 ms waiting for others' prefill, 41.0 ms prefill" in text
    assert "output     4 tokens" in text


def test_a_dry_run_reads_stdin(daemon):
    piped = CliRunner().invoke(main, ["explain", "--dry-run", "-", "--json"], json.dumps(BODIES["a completion"]))
    assert (piped.exit_code, json.loads(piped.stdout)["prompt_tokens"]) == (0, 40)

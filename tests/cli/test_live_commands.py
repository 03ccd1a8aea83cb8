"""`preble tail`, `preble tree`, `preble request cancel` and what orders for GPUs would do."""

import pytest
from tests.cli.running import data, preble

from preble.daemon.cli.live import _wanted
from preble.daemon.wire.live import LiveRequest


def row(**changes):
    usual = {
        "request_id": "req_1", "at": "2026-11-21T14:02:30.900+00:00", "tenant": "acme", "model": "m", "template": None,
        "state": "finished", "gpu": "gpu0", "mode": "exploit", "prompt_tokens": 100, "predicted_cached_tokens": 64,
        "cached_tokens": 64, "output_tokens": 5, "attempts": 1, "queue_ms": 20.0, "ttft_ms": 1500.0,
        "latency_ms": 1600.0, "error": None,
    }  # fmt: skip
    return LiveRequest(**{**usual, **changes})


@pytest.mark.parametrize(
    ("term", "matches"),
    [
        ("tenant:acme", True),
        ("tenant:zoo", False),
        ("ttft>1s", True),
        ("ttft>1600ms", False),
        ("wait<0.5s", True),
        ("latency>1m", False),
        ("req_", True),
        ("template:", True),
        ("template:a", False),
    ],
)
def test_a_term_chooses_requests(term, matches):
    assert _wanted(term)(row()) is matches


@pytest.mark.parametrize(("term", "matches"), [("a", True), ("a@12", True), ("a@1", False), ("12", False), ("", False)])
def test_a_template_is_chosen_by_its_name_or_one_version_of_it(term, matches):
    assert _wanted(f"template:{term}")(row(template="a@12")) is matches


def test_a_time_that_is_not_known_matches_no_bound():
    assert not _wanted("ttft>0s")(row(ttft_ms=None))
    assert not _wanted("ttft<9s")(row(ttft_ms=None))


@pytest.mark.parametrize("term", ["colour:red", "ttft>fast", "size<3s"])
def test_a_term_that_means_nothing_is_a_usage_error(daemon, term):
    result = preble("tail", term)
    assert result.exit_code == 2
    assert term in result.output


def test_the_prefix_index_is_a_table_and_json(daemon):
    assert preble("tree").exit_code == 0
    assert data("tree") == {"rows": [], "total": 0, "next": None}


def test_what_an_order_would_do_is_said_and_nothing_done(daemon):
    result = preble("gpu", "drain", "cpu0", "--dry-run")
    assert result.stdout == "drain of cpu0: 3 running requests finish first.\n"
    planned = data("gpu", "restart", "cpu0", "--dry-run")
    assert (planned["action"], planned["computed_at"][:2]) == ("gpu.restart", "20")
    assert [row["draining"] for row in data("gpu", "list")] == [False, False]


def test_a_request_that_does_not_live_cannot_be_cancelled(daemon):
    result = preble("request", "cancel", "req_1")
    assert result.exit_code == 4
    assert "No request 'req_1' is waiting or running." in result.stderr

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_row
from tests.tui.feeds import OPERATORS, RAG, gpu, log, request, snapshot, template, tick

from preble.tui.state import MOST_REQUESTS, ConsoleState, Freshness, Link


@pytest.fixture
def state() -> ConsoleState:
    made = ConsoleState()
    made.fold(snapshot(), 100.0)
    return made


def test_ticks_replace_rows_and_take_away_what_is_gone(state):
    state.fold(
        tick(2, gpus=[gpu(1, running=99)], gone_gpus=["gpu7"], gone_tenants=["zoo"], gone_templates=[OPERATORS]), 100.5
    )
    assert state.gpus["gpu1"].running == 99
    assert "gpu7" not in state.gpus
    assert "zoo" not in state.tenants
    assert OPERATORS not in state.templates
    assert state.sequence == 2


def test_templates_of_one_name_are_rows_of_their_own(state):
    same = [key for key in state.templates if key.name == RAG.name]
    assert [(key.owner, key.version) for key in same] == [("zoo", 3), ("shop", 3), ("zoo", 2)]
    changed = replace_row(state.templates[RAG], requests_per_min=1.5)
    state.fold(tick(2, templates=[changed], gone_templates=[same[2]]), 100.5)
    assert [key for key in state.templates if key.name == RAG.name] == same[:2]
    assert state.templates[RAG].requests_per_min == 1.5
    assert state.templates[same[1]].requests_per_min == template(3).requests_per_min


def test_what_was_told_before_is_passed_over(state):
    state.fold(tick(3, gpus=[gpu(1, running=3)]), 100.5)
    state.fold(tick(2, gpus=[gpu(1, running=99)]), 100.6)
    assert state.gpus["gpu1"].running == 3
    state.fold(tick(9, boot_id="other", gpus=[gpu(1, running=99)]), 100.7)
    assert state.gpus["gpu1"].running == 3


def test_another_daemon_is_noticed(state):
    state.fold(snapshot(boot_id="boot-b", sequence=1), 130.0)
    assert state.restarted_s == 130.0
    state.fold(tick(2, boot_id="boot-b", gpus=[gpu(1, running=7)]), 130.5)
    assert state.gpus["gpu1"].running == 7


@pytest.mark.parametrize(
    ("after_s", "freshness"),
    [(0.4, Freshness.LIVE), (1.5, Freshness.LATE), (2.4, Freshness.LATE), (2.6, Freshness.STALE)],
)
def test_freshness_counts_the_daemons_own_periods(state, after_s, freshness):
    assert state.freshness(100.0 + after_s) is freshness


def test_a_lost_connection_is_lost_at_once_and_keeps_what_is_known(state):
    state.connect(Link("lost", "gone", 104.0))
    assert state.freshness(100.1) is Freshness.LOST
    assert state.gpus
    state.fold(tick(2), 105.0)
    assert state.freshness(105.0) is Freshness.LIVE


def test_before_the_first_event_it_is_connecting():
    assert ConsoleState().freshness(5.0) is Freshness.CONNECTING


def test_old_data_is_no_ground_for_changes():
    assert {fresh for fresh in Freshness if not fresh.is_old} == {Freshness.LIVE, Freshness.LATE}


def test_requests_and_logs_are_bounded_and_what_leaves_is_counted(state):
    for sequence in range(2, 8):
        rows = [request(sequence * 1000 + number) for number in range(1000)]
        state.fold(
            tick(sequence, requests=rows, logs=[log(n) for n in range(1000)], dropped_requests=5, dropped_logs=2), 101
        )
    assert len(state.requests) == MOST_REQUESTS
    assert state.forgotten_requests == 60 + 6000 - MOST_REQUESTS
    assert (state.dropped_requests, state.dropped_logs) == (30, 12)
    assert len(state.logs) == 2000
    assert len({number for number, _ in state.logs}) == 2000


def test_a_request_that_goes_on_keeps_its_place(state):
    first = next(iter(state.requests))
    state.fold(tick(2, requests=[request(0, state="finished", output_tokens=7)]), 101)
    assert next(iter(state.requests)) == first
    assert state.requests[first].output_tokens == 7


def test_history_goes_on_by_the_snapshots_steps(state):
    before = len(state.history["hit_ratio"])
    for sequence in range(2, 302):
        state.fold(tick(sequence), 101)
    assert len(state.history["hit_ratio"]) == before + 2  # 150 s, a point a minute
    assert state.points("load_ms/gpu3", 1) == [3980.0]
    assert state.points("unheard of", 5) == []


def test_a_copy_is_not_changed(state):
    held = state.frozen()
    state.fold(tick(2, gpus=[gpu(1, running=99)], requests=[request(999)], logs=[log(9)]), 101)
    assert held.gpus["gpu1"].running != 99
    assert "req-00999" not in held.requests
    assert replace(held, received_s=0).sequence == 1

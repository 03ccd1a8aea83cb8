"""What consoles are told, from what happens to a machine."""

from msgspec.structs import replace
from tests.core import removed, stored
from tests.obs.live.hosts import EPOCH_S, Told, end, template

from preble.daemon.config import LiveConfig
from preble.daemon.flow import events
from preble.daemon.ids import AttemptId, GpuId
from preble.daemon.wire.live import LogLine, TemplateKey
from preble.daemon.wire.moments import iso


def states(tick):
    return {row.request_id: row.state for row in tick.requests}


def watched(*gpus, **more):
    told = Told(*gpus, **more)
    told.board.watch(True)
    told.board.tick(told.now_s)
    return told


def test_a_request_is_told_of_from_its_arrival_to_its_end():
    told = watched("a")
    decision = told.arrive("r", "abcdefgh")
    told.now_s = 0.5
    assert states(told.board.tick(0.5)) == {"r": "running"}
    told(events.FirstToken(attempt_id=decision.attempt_id))
    tick = told.board.tick(0.5)
    assert states(tick) == {"r": "streaming"}
    assert (tick.traffic.running, tick.traffic.waiting) == (1, 0)
    assert tick.requests[0].ttft_ms == 500.0
    told(events.Finished(attempt_id=decision.attempt_id, output_tokens=3))
    told.end("r")
    tick = told.board.tick(0.5)
    assert states(tick) == {"r": "finished"}
    assert tick.requests[0].at == iso(EPOCH_S)
    assert (tick.requests[0].cached_tokens, tick.requests[0].attempts, tick.traffic.running) == (4, 1, 0)
    assert states(told.board.tick(0.5)) == {}


def test_a_request_that_was_refused_before_the_machine_heard_of_it_is_told_and_counted():
    told = watched("a")
    told.end("r", state="refused", gpu=None, mode=None, refused_by="requests_per_minute", error="too many")
    tick = told.board.tick(1.0)
    assert states(tick) == {"r": "refused"}
    assert tick.tenants[0].refused == {"requests_per_minute": 1}
    assert tick.traffic.refused_per_s == 1.0
    assert (tick.traffic.waiting, tick.traffic.running) == (0, 0)


def test_what_ends_before_the_machine_says_so_is_over_for_good():
    told = watched("a")
    decision = told.arrive("r", "abcdefgh")
    told.end("r", state="cancelled")
    told(events.FirstToken(attempt_id=decision.attempt_id))
    told(events.Failed(attempt_id=decision.attempt_id, retry=True))
    tick = told.board.tick(1.0)
    assert states(tick) == {"r": "cancelled"}
    assert tick.traffic.running == tick.traffic.waiting == 0


def test_only_what_has_changed_is_in_a_tick():
    told = watched("a", "b")
    assert told.board.tick(1.0).gpus == []
    told.arrive("r", "abcdefgh")
    assert [row.gpu for row in told.board.tick(1.0).gpus] == ["a"]
    assert [row.gpu for row in told.board.tick(1.0).gpus] == []


def test_templates_of_one_name_are_told_each_for_itself():
    keys = [TemplateKey(owner=owner, name="t", version=version) for owner, version in ((None, 1), ("x", 1), ("x", 2))]
    told = watched("a")
    told.shown = [template(key) for key in keys]
    assert [row.key for row in told.board.tick(1.0).templates] == keys
    told.shown[1] = template(keys[1], pinned=True)
    assert [row.key for row in told.board.tick(1.0).templates] == [keys[1]]
    told.shown = told.shown[2:]
    tick = told.board.tick(1.0)
    assert (tick.templates, tick.gone_templates) == ([], keys[:2])


def test_a_tenant_that_wants_nothing_any_more_is_gone():
    told = watched("a", live=LiveConfig(recent_s=30.0))
    told.end("r")
    assert [row.tenant for row in told.board.tick(1.0).tenants] == ["t"]
    told.now_s = 40.0
    told.board.age(40.0)
    assert told.board.tick(40.0).gone_tenants == ["t"]
    assert told.board.tick(40.0).gone_tenants == []


def test_more_changes_than_a_tick_may_tell_are_dropped_and_counted_but_never_an_end_of_what_was_told():
    told = watched("a", live=LiveConfig(requests_per_tick=10))
    decisions = [told.arrive(f"r{number}", "abcdefgh") for number in range(40)]
    tick = told.board.tick(1.0)
    assert list(states(tick)) == [f"r{number}" for number in range(10)]
    assert tick.dropped_requests >= 30
    for decision in reversed(decisions):  # those that were not told of end first
        told.end(decision.request_id)
    ended = states(told.board.tick(1.0))
    assert {name for name, state in ended.items() if state == "finished"} >= {f"r{number}" for number in range(10)}
    assert len(ended) <= 20


def test_nothing_is_collected_for_nobody():
    told = Told("a")
    for number in range(40):
        told.arrive(f"r{number}", "abcdefgh")
    assert told.board.tick(1.0).requests == []
    assert told.board.snapshot(1.0).traffic.arrived_per_s == 40.0


def test_a_snapshot_has_what_lives_and_what_has_ended_oldest_first():
    told = Told("a", live=LiveConfig(requests_per_tick=3))
    for number in range(6):
        told.now_s = float(number)
        told.arrive(f"r{number}", "abcdefgh")
    for number in range(5):
        told.end(f"r{number}")
    snapshot = told.board.snapshot(6.0)
    assert [(row.request_id, row.state) for row in snapshot.requests] == [
        ("r2", "finished"),
        ("r3", "finished"),
        ("r4", "finished"),
        ("r5", "running"),
    ]
    assert snapshot.sequence == told.board.sequence


def test_log_lines_that_are_too_many_are_dropped_and_counted():
    told = watched("a", live=LiveConfig(logs_per_tick=5))
    for number in range(8):
        told.board.logged(LogLine(at="", level="info", event=f"e{number}", fields={}))
    tick = told.board.tick(1.0)
    assert ([line.event for line in tick.logs], tick.dropped_logs) == ([f"e{number}" for number in range(3, 8)], 3)
    assert told.board.tick(1.0).logs == []


def test_the_history_has_a_point_for_each_slot():
    told = Told("a")
    for second in range(100):
        told.now_s = float(second)
        told.board.age(told.now_s)
        told.end(f"r{second}")
    history = told.board.snapshot(told.now_s).history
    assert {len(values) for values in history.values()} == {9}
    assert history["arrived_per_s"] == [1.0] * 9
    assert history["ttft_p50_ms"][0] is None
    assert history["ttft_p50_ms"][-1] is not None
    assert history["load_ms/a"] == [0.0] * 9


def test_shares_follow_gpu_time_and_dues_follow_weights():
    told = watched("a")
    for name, tenant, text in (("x", "one", "abcdefgh" * 3), ("y", "two", "ijklmnop")):
        decision = told.arrive(name, text, tenant=tenant)
        told(events.Finished(attempt_id=decision.attempt_id, output_tokens=0))
        told.end(name, tenant=tenant)
    tick = told.board.tick(1.0)
    shares = {row.tenant: row.share_ratio for row in tick.tenants}
    assert shares["one"] > 0.6
    assert abs(sum(shares.values()) - 1) < 0.01
    assert {row.due_ratio for row in tick.tenants} == {0.5}
    assert list(tick.gpus[0].tenants) == ["one", "two"]


def test_evictions_are_told_by_second():
    told = watched("a")
    told(stored("a", "abcdefgh"))
    told(removed("a", "abcdefgh"))
    told.now_s = 2.0
    assert told.board.tick(2.0).gpus[0].evicted_blocks_per_s == 0.5


def test_sequences_of_a_later_start_are_above_all_of_an_earlier_one():
    first = Told("a").board
    first.watch(True)
    for _ in range(100):
        first.tick(1.0)
    later = Told("a", started_s=5.0).board
    assert later.sequence > first.sequence


def test_unknown_attempts_and_requests_change_nothing():
    told = watched("a")
    told(events.FirstToken(attempt_id=AttemptId(99)))
    told(events.EngineDown(gpu=GpuId("a")))
    tick = told.board.tick(1.0)
    assert tick.requests == []
    assert replace(tick.traffic, arrived_per_s=0.0) == tick.traffic


def test_an_end_without_an_arrival_counts_as_one():
    told = watched("a")
    told.board.ended(end("r", state="failed", error="boom"), 1.0)
    tick = told.board.tick(1.0)
    assert (tick.traffic.arrived_per_s, tick.requests[0].error) == (1.0, "boom")


def test_the_worst_tenant_is_told_by_first_tokens_and_without_streams_by_waits():
    told = watched("a")
    for number in range(20):
        told.end(f"b{number}", tenant="brief", queue_ms=10.0, ttft_ms=None)
        told.end(f"s{number}", tenant="slow", queue_ms=900.0, ttft_ms=None)
    assert told.board.tick(0.5).traffic.worst_tenant == "slow"
    for number in range(20):
        told.end(f"c{number}", tenant="brief", queue_ms=10.0, ttft_ms=50.0)
    assert told.board.tick(1.0).traffic.worst_tenant == "brief"

"""What needs a human: rules, and that alarms do not flicker."""

import pytest
from tests.obs.live.hosts import EPOCH_S, Told

from preble.daemon.config import LiveConfig
from preble.daemon.flow import events
from preble.daemon.ids import GpuId
from preble.daemon.obs.live.alarms import Alarms, Cause
from preble.daemon.wire.moments import iso


def cause(level=1.0, rule="x", severity="warning"):
    return Cause(rule=rule, kind="gpu", name="a", severity=severity, text=f"{level}", level=level)


def texts(told, until_s, step_s=0.5):
    """What is told after some time in which nothing else happens."""
    while told.now_s < until_s:
        told.now_s += step_s
        alarms = told.board.tick(told.now_s).alarms
    return [(alarm.severity, alarm.name, alarm.text) for alarm in alarms]


def test_an_alarm_begins_and_ends_later_than_its_cause():
    alarms = Alarms(EPOCH_S)
    for now_s in (0.0, 1.0):
        alarms.update([cause()], now_s)
        assert alarms.rows() == []
    alarms.update([cause()], 2.0)
    assert [(row.name, row.since) for row in alarms.rows()] == [("a", iso(EPOCH_S))]
    alarms.update([], 11.0)
    assert len(alarms.rows()) == 1
    alarms.update([], 13.0)
    assert alarms.rows() == []


def test_what_is_only_a_little_below_its_threshold_goes_on():
    alarms = Alarms(EPOCH_S)
    for now_s in (0.0, 3.0):
        alarms.update([cause()], now_s)
    for now_s in range(4, 40):
        alarms.update([cause(level=0.85)], float(now_s))
    assert [row.text for row in alarms.rows()] == ["0.85"]
    for now_s in range(40, 52):
        alarms.update([cause(level=0.7)], float(now_s))
    assert alarms.rows() == []


def test_a_short_peak_is_no_alarm():
    alarms = Alarms(EPOCH_S)
    alarms.update([cause()], 0.0)
    alarms.update([cause(level=0.9)], 1.0)
    alarms.update([cause()], 2.5)
    assert alarms.rows() == []


def test_critical_ones_come_first():
    alarms = Alarms(EPOCH_S)
    for now_s in (0.0, 3.0):
        alarms.update([cause(), cause(rule="y", severity="critical")], now_s)
    assert [row.severity for row in alarms.rows()] == ["critical", "warning"]


def test_an_engine_that_is_down_is_critical():
    told = Told("a", "b")
    told(events.EngineDown(gpu=GpuId("a")))
    assert texts(told, 3.0) == [("critical", "a", "backoff: not in service")]


def test_a_full_cache_many_restarts_and_failing_writes_are_told():
    told = Told("a")
    told.kv_used_ratio = 0.97
    told.restarts["a"] = 3
    told.fail = ["usage cannot be written: disk full"]
    assert texts(told, 3.0) == [
        ("critical", "preble", "usage cannot be written: disk full"),
        ("warning", "a", "restarted 3 times in 5 min"),
        ("warning", "a", "KV 97 %, 0 waiting"),
    ]


def test_a_tenant_that_waits_long_and_errors_are_told():
    told = Told("a", live=LiveConfig(alarm_queue_p99_s=0.5, alarm_error_ratio=0.1))
    for number in range(30):
        told.end(f"r{number}", state="failed" if number < 6 else "finished", queue_ms=1000.0)
    for number in range(9):  # 8 of them run at once
        told.arrive(f"w{number}", "abcdefgh")
    assert texts(told, 3.0) == [
        ("critical", "preble", "20.0 % of requests fail (limit 10.0 %)"),
        ("warning", "t", "queue wait p99 1.0 s (limit 0.5 s), 1 waiting"),
    ]


@pytest.mark.parametrize(
    ("prefill", "decode", "decode_ratio", "says"),
    [
        (0.5, 2.4, 0.05, None),
        (0.5, 2.4, 0.5, "takes 145 % more or less time than predicted (prefill 50 %, decode 240 %)"),
        (0.9, None, 0.05, "takes 90 % more or less time than predicted (prefill 90 %)"),
        (0.9, 0.1, 1.0, None),
        (None, None, 0.0, None),
    ],
)
def test_times_are_told_of_once_per_gpu_and_by_how_much_of_its_work_they_are(prefill, decode, decode_ratio, says):
    told = Told("a")
    told.prefill_error_ratio, told.decode_error_ratio, told.decode_ratio = prefill, decode, decode_ratio
    for number in range(20):
        told.end(f"r{number}")
    assert texts(told, 3.0) == ([("warning", "a", says)] if says else [])


def test_times_of_which_little_was_seen_of_late_need_nobody():
    told = Told("a")
    told.prefill_error_ratio = told.decode_error_ratio = 3.0
    for number in range(19):
        told.end(f"r{number}")
    assert texts(told, 3.0) == []

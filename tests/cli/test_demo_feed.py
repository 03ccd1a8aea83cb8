"""`preble demo-feed`: lines as a console records them."""

import msgspec
from tests.cli.running import preble

from preble.daemon.wire.admin import Explanation
from preble.daemon.wire.live import LiveEvent, PrefixPage, Snapshot, Tick


class Line(msgspec.Struct, forbid_unknown_fields=True):
    at_s: float
    event: LiveEvent | None = None
    asked: str | None = None
    answer: msgspec.Raw = msgspec.Raw()


def lines(*options):
    result = preble("demo-feed", "--at-once", *options)
    assert result.exit_code == 0, result.output
    return [msgspec.json.decode(line, type=Line) for line in result.stdout.splitlines()]


def feed(*options):
    return [line for line in lines(*options) if line.event is not None]


def test_what_a_console_asks_is_answered_beforehand():
    told = lines("--seconds", "20")
    answers = {line.asked: line.answer for line in told if line.asked is not None}
    rows = {row.request_id: row for line in told if line.event is not None for row in line.event.requests}
    for row in rows.values():
        if row.mode is not None:
            known = msgspec.json.decode(answers[f"explain/{row.request_id}"], type=Explanation)
            assert (known.gpu, known.mode) == (row.gpu, row.mode)
            assert (known.actual is not None) == (row.state in ("finished", "failed"))
            if len(known.candidates) > 1:
                instead = msgspec.json.decode(answers[f"what-if/{row.request_id}/{row.gpu}"], type=Explanation)
                assert instead.gpu != row.gpu
    beginnings = msgspec.json.decode(answers["prefixes//"], type=PrefixPage)
    assert any(row.requests for row in beginnings.rows)
    [parent, *_] = [row.id for row in beginnings.rows if row.children]
    assert msgspec.json.decode(answers[f"prefixes/{parent}/"], type=PrefixPage).rows


def test_a_snapshot_then_ticks_whose_numbers_follow_each_other():
    first, *others = feed("--seconds", "20")
    assert isinstance(first.event, Snapshot)
    assert all(isinstance(line.event, Tick) for line in others)
    numbers = [line.event.sequence for line in (first, *others)]
    assert numbers == list(range(numbers[0], numbers[0] + 41))
    assert [line.at_s for line in (first, *others)] == [number / 2 for number in range(41)]


def test_it_shows_what_a_console_can_show():
    lines = feed("--seconds", "200")
    tenants = {row.tenant: row for line in lines for row in line.event.tenants}
    assert tenants["acme"].weight == 2.0
    assert tenants["archive"].priority == "batch"
    assert any(row.share_ratio for row in tenants.values())
    states = {row.state for line in lines for row in line.event.gpus}
    assert states >= {"ready", "backoff"}
    assert {alarm.kind for line in lines for alarm in line.event.alarms} >= {"gpu", "tenant"}
    templates = lines[-1].event.templates or [row for line in lines for row in line.event.templates]
    assert any(row.hit_ratio for row in templates)
    assert lines[-1].event.traffic.ttft.p99_ms is not None


def test_the_same_seed_is_the_same_traffic():
    def requests(seed):
        return [row.request_id for line in feed("--seconds", "10", "--seed", seed) for row in line.event.requests]

    assert requests("1") == requests("1") != requests("2")


def test_at_once_without_an_end_is_refused():
    result = preble("demo-feed", "--at-once")
    assert result.exit_code == 2
    assert "--seconds" in result.output

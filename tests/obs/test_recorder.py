"""What the daemon records of its machine: all of it, in order, to a file of its own, and never at the daemon's cost."""

import os
import stat

import pytest
import structlog
from tests.core import CONFIG, Bench, spec, up

from preble.daemon.errors import ConfigError
from preble.daemon.flow import events
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.runtime import Runtime
from preble.daemon.obs import recorder
from preble.daemon.obs.recorder import Recorder, recording
from preble.daemon.sim.replay import replay


def arrive(number: int) -> events.Arrived:
    return events.Arrived(request=spec(f"r{number}", "x" * 40))


def replayed(path):
    with path.open("rb") as lines:
        return replay(lines)


async def test_what_a_runtime_does_can_be_replayed(tmp_path):
    async with recording(tmp_path / "events", CONFIG) as record:
        runtime = Runtime(Machine(CONFIG), on_step_s=lambda _: None, record=record)
        runtime.post(up("a"))
        runtime.submit(spec("r1", "x" * 40), lambda _: None)
        runtime.views()
        runtime.preview(spec("r2", "x" * 40))
        runtime.post(events.Finished(attempt_id=1, output_tokens=2))
    found = replayed(tmp_path / "events")
    assert (found.steps, found.equal_steps, found.decisions, found.cut_off) == (3, 3, 1, False)


async def test_without_a_path_nothing_is_recorded(tmp_path):
    async with recording(None, CONFIG) as record:
        record(0.0, up("a"), ())
    assert list(tmp_path.iterdir()) == []


async def test_only_the_owner_may_read_it(tmp_path):
    async with recording(tmp_path / "events", CONFIG):
        assert stat.S_IMODE((tmp_path / "events").stat().st_mode) == 0o600


async def test_a_recording_is_not_written_over(tmp_path):
    (tmp_path / "events").write_text("dear")
    with pytest.raises(ConfigError, match="is there already"):
        async with recording(tmp_path / "events", CONFIG):
            pass
    assert (tmp_path / "events").read_text() == "dear"


async def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.events: No such file"):
        async with recording(tmp_path / "nowhere/events", CONFIG):
            pass


async def test_it_ends_where_it_would_be_too_large_and_what_is_there_can_be_replayed(tmp_path):
    path = tmp_path / "events"
    bench = Bench()
    with structlog.testing.capture_logs() as logged:
        async with recording(path, CONFIG) as record:
            record(0.0, up("a"), bench(up("a")))
        size = path.stat().st_size
        taking = Recorder(os.open(path, os.O_WRONLY | os.O_APPEND), max_bytes=3000)
        for number in range(20):
            taking.record(0.0, arrive(number), bench(arrive(number)))
        await taking.close()
        taking.record(0.0, arrive(99), ())
    assert size < path.stat().st_size <= size + 3000
    assert [(line["event"], line["log_level"]) for line in logged] == [("recording_ended", "warning")]
    found = replayed(path)
    assert 1 < found.steps < 20
    assert found.first_difference is None


async def test_a_full_disk_ends_the_recording_and_nothing_else():
    with structlog.testing.capture_logs() as logged:
        taking = Recorder(os.open("/dev/full", os.O_WRONLY))
        for number in range(5):
            taking.record(0.0, arrive(number), ())
        await taking.close()
        taking.record(0.0, arrive(9), ())
    assert [line["why"] for line in logged] == ["[Errno 28] No space left on device"]


async def test_no_more_waits_for_a_slow_disk_than_may(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "_MAX_WAITING", 10)
    with structlog.testing.capture_logs() as logged:
        async with recording(tmp_path / "events", CONFIG) as record:
            for number in range(30):
                record(0.0, arrive(number), ())
    assert [line["why"] for line in logged] == ["the disk is too slow"]

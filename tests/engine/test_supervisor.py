"""Engines are kept alive, taken down when they are ill, and leave nothing behind."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import tests.fake_engine
from tests.engine.publisher import Publisher, stored
from tests.engine.waiting import until

from preble.daemon.config import Config, EnginesConfig, ModelConfig
from preble.daemon.engine import supervisor
from preble.daemon.engine.fleet import Fleet
from preble.daemon.engine.launch import EngineSpec, Sockets
from preble.daemon.engine.supervisor import EngineStatus
from preble.daemon.errors import Conflict, EngineError, NotFound
from preble.daemon.flow.events import DrainChanged, EngineUp, Event
from preble.daemon.ids import GpuId, ModelName
from preble.daemon.sched.types import EngineLimits, TimeModel

GPU = GpuId("cpu0")
MODEL = ModelConfig(
    name=ModelName("fake"), path="demo", hardware="cpu", block_size=32, max_num_seqs=7, max_num_batched_tokens=512
)
QUICK = EnginesConfig(
    start_timeout_s=10,
    health_interval_s=0.05,
    health_timeout_s=2.0,
    unhealthy_after=2,
    restart_backoff_s=0.05,
    restart_backoff_max_s=0.2,
    drain_timeout_s=0.3,
    stop_grace_s=0.5,
)


class World:
    """A fleet of stand-in engines in processes of their own, and all it has told."""

    def __init__(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, engines: int = 1) -> None:
        self.data_dir = data_dir
        self.events: list[Event] = []
        self.said: list[str] = []
        self.running = 0
        self.options: dict[str, object] = {"ms_per_token": 0.1}
        self.code: str | None = None
        """Run this instead of a stand-in engine."""
        monkeypatch.setattr(supervisor, "command", self._command)
        self.known: TimeModel | None = None
        specs = [
            EngineSpec(
                gpu=GpuId(f"cpu{number}"), model=MODEL, model_path="x", devices=(0,), hardware="cpu", device="a core"
            )
            for number in range(engines)
        ]
        config = Config(data_dir=str(data_dir), engines=QUICK, models=(MODEL,))
        self.fleet = Fleet(config, specs, self.events.append, lambda _: self.running, self.said.append, self._time)

    def _time(self, _spec: EngineSpec) -> TimeModel | None:
        return self.known

    def _command(self, _spec: EngineSpec, sockets: Sockets) -> list[str]:
        if self.code is not None:
            return ["sh", "-c", self.code]
        return [sys.executable, tests.fake_engine.__file__, str(sockets.http), json.dumps(self.options)]

    @asynccontextmanager
    async def up(self) -> AsyncIterator["World"]:
        await self.fleet.start()
        try:
            async with asyncio.timeout(20):
                await self.fleet.settled()
                yield self
        finally:
            await self.fleet.stop()

    @property
    def row(self) -> EngineStatus:
        return self.fleet.rows[0]

    async def until_state(self, state: str) -> None:
        await until(lambda: self.row.state == state)

    def told(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    return World(tmp_path, monkeypatch)


def alive(pid: int) -> bool:
    stat_file = Path(f"/proc/{pid}/stat")
    return stat_file.exists() and stat_file.read_text().rpartition(")")[2].split()[0] != "Z"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_an_engine_comes_up_with_its_limits_and_goes_down_clean(world):
    async with world.up():
        [up] = world.events
        assert isinstance(up, EngineUp)
        assert (up.gpu, up.model, up.epoch) == ("cpu0", "fake", 1)
        assert up.limits == EngineLimits(
            block_size=32, kv_blocks=999, max_num_seqs=7, max_num_batched_tokens=512, max_model_len=8192
        )
        await until(lambda: world.row.metrics)
        row, run = world.row, world.data_dir / "run"
        assert (row.state, row.restarts, row.epoch) == ("ready", 0, 1)
        assert row.time_model == up.time_model
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        assert world.fleet.ready(ModelName("fake")) == [GPU]
        assert world.fleet.ready(ModelName("other")) == []
        await world.fleet.client(GPU).health(timeout_s=1)
        assert row.pid is not None
        assert alive(row.pid)
    assert not alive(row.pid)
    assert world.told() == ["EngineUp", "EngineDown"]
    assert world.row.state == "stopped"
    assert not run.exists()


async def test_blocks_behind_a_lost_report_are_counted_until_the_next_start(world):
    async with world.up():
        sockets = Sockets.within(world.data_dir / "run", GPU)
        names = {"events": sockets.kv_events.name, "replay": sockets.kv_replay.name}
        async with Publisher(world.data_dir / "run", **names).serving() as publisher:
            await publisher.followed()
            await publisher.publish(stored(7, 8, parent_block_hash=6))
            await until(lambda: world.row.unplaced_blocks)
        assert world.row.unplaced_blocks == 2
        await world.fleet.restart(GPU)
        assert world.row.unplaced_blocks == 0


async def test_a_killed_engine_is_started_again(world):
    async with world.up():
        first = world.row
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: world.told() == ["EngineUp", "EngineDown", "EngineUp"])
        again = world.row
        assert (again.state, again.epoch, again.restarts) == ("ready", 2, 1)
        assert again.pid != first.pid
        assert again.time_model == first.time_model, "measured once only"
        assert any("ended by signal 9" in line for line in world.said)


async def test_an_engine_is_known_to_be_down_before_its_requests_fail(world):
    request = b'{"model": "fake", "prompt": "x", "stream": true, "max_tokens": 100000}'
    async with world.up():
        async with world.fleet.client(GPU).stream("/v1/completions", request, {}) as response:
            await anext(response.chunks)
            os.kill(world.row.pid, signal.SIGKILL)
            with pytest.raises(EngineError):
                [chunk async for chunk in response.chunks]
        assert world.told() == ["EngineUp", "EngineDown"]
        assert world.row.state in ("stopping", "backoff")
        await until(lambda: world.row.state == "ready")


async def test_nothing_is_left_of_an_engine_whose_guard_is_killed(world):
    async with world.up():
        pid = world.row.pid
        os.kill(parent_of(pid), signal.SIGKILL)
        await until(lambda: not alive(pid))
        await until(lambda: world.row.restarts == 1)


async def test_a_hung_engine_is_taken_down_and_started_again(world):
    async with world.up():
        pid = world.row.pid
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: "EngineDown" in world.told())
        await world.until_state("ready")
        assert not alive(pid)
        assert any("failed 2 health checks in a row" in line for line in world.said)


async def test_now_and_then_a_failed_check_is_forgiven(world):
    world.options["sick_every"] = 2
    async with world.up():
        readings = []
        while len(readings) < 6:
            await until(lambda: world.row.metrics not in readings[-1:])
            readings.append(world.row.metrics)
            await world.fleet.client(GPU).complete({"model": "fake", "prompt": "x", "max_tokens": 1})
        assert world.told() == ["EngineUp"]


async def test_a_stubborn_engine_whose_guard_is_killed_is_killed_too(world):
    world.code = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    await world.fleet.start()
    try:
        await until(lambda: world.row.pid and (world.data_dir / "logs" / "cpu0.log").read_text() == "up\n")
        pid = world.row.pid
        os.kill(parent_of(pid), signal.SIGKILL)
        await until(lambda: not alive(pid))
    finally:
        await world.fleet.stop()


async def test_an_engine_that_will_not_start_is_tried_ever_more_slowly(world):
    world.code = "echo out of luck; exit 3"
    async with world.up():
        assert world.row.state == "backoff"
        assert "ended with status 3" in world.row.detail
        assert "out of luck" in world.row.detail
        await until(lambda: world.row.epoch >= 5)
        pauses = [line.rpartition("next start in ")[2] for line in world.said if "next start" in line]
        assert pauses[:4] == ["0.05 s", "0.1 s", "0.2 s", "0.2 s"]
        world.code = None
        await world.until_state("ready")
    assert world.told() == ["EngineUp", "EngineDown"]


async def test_failures_are_forgotten_after_good_service(world, monkeypatch):
    monkeypatch.setattr(supervisor, "_HEALTHY_AGAIN_S", 0)
    async with world.up():
        for epoch in (2, 3):
            os.kill(world.row.pid, signal.SIGKILL)
            await until(lambda epoch=epoch: (world.row.epoch, world.row.state) == (epoch, "ready"))
        assert [line.rpartition("\n")[2] for line in world.said if "next start" in line] == ["next start in 0.05 s"] * 2


async def test_an_engine_that_is_not_ready_in_time_is_ended(world, monkeypatch):
    monkeypatch.setattr(
        world.fleet,
        "_config",
        msgspec.structs.replace(world.fleet._config, engines=msgspec.structs.replace(QUICK, start_timeout_s=0.2)),
    )
    world.code = "exec sleep 600"
    async with world.up():
        assert world.row.state == "backoff"
        assert "not ready within 0.2 s" in world.row.detail


async def test_an_engine_with_another_block_size_is_refused_until_an_operator_asks(world):
    world.options["block_size"] = 16
    async with world.up():
        assert world.row.state == "failed"
        assert world.row.detail == "models: fake: block_size is 32, but its engine uses 16"
        assert world.row.pid is None
        world.options["block_size"] = 32
        await world.fleet.restart(GPU)
        await world.until_state("ready")
    assert world.told() == ["DrainChanged", "DrainChanged", "EngineUp", "EngineDown"]


async def test_draining(world):
    async with world.up():
        world.fleet.drain(GPU)
        assert world.row.state == "draining"
        assert world.fleet.ready(ModelName("fake")) == []
        os.kill(world.row.pid, signal.SIGKILL)
        await until(lambda: world.row.epoch == 2 and world.row.state == "draining")
        world.fleet.undrain(GPU)
        assert world.row.state == "ready"
        drains = [event.draining for event in world.events if isinstance(event, DrainChanged)]
        assert drains == [True, False]


async def test_a_restart_waits_for_running_requests(world):
    async with world.up():
        first, world.running = world.row, 1
        restart = asyncio.create_task(world.fleet.restart(GPU))
        await world.until_state("draining")
        with pytest.raises(Conflict):
            await world.fleet.restart(GPU)
        assert alive(first.pid)
        world.running = 0
        await restart
        assert not alive(first.pid)
        await world.until_state("ready")
    assert world.told() == ["EngineUp", "DrainChanged", "EngineDown", "DrainChanged", "EngineUp", "EngineDown"]


async def test_a_restart_waits_no_longer_than_it_may(world):
    async with world.up():
        world.running = 1
        await asyncio.wait_for(world.fleet.restart(GPU), 3)
        await until(lambda: world.row.epoch == 2)


async def test_stopping_ends_an_engine_that_is_still_starting(world):
    world.code = "exec sleep 600"
    await world.fleet.start()
    await until(lambda: world.row.pid)
    pid = world.row.pid
    await asyncio.wait_for(world.fleet.stop(), 5)
    assert not alive(pid)


async def test_engines_side_by_side(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, engines=2)
    async with world.up():
        assert world.fleet.ready(ModelName("fake")) == ["cpu0", "cpu1"]
        assert {event.gpu for event in world.events} == {"cpu0", "cpu1"}
        with pytest.raises(NotFound, match="cpu0, cpu1"):
            world.fleet.drain(GpuId("cpu7"))


async def test_logs_keep_one_start_back(world):
    world.code = "echo first; exit 1"
    async with world.up():
        world.code = "echo then; exec sleep 600"
        logs = world.data_dir / "logs"
        await until(lambda: (logs / "cpu0.log").read_text() == "then\n")
        assert (logs / "cpu0.log.1").read_text() == "first\n"


async def test_sockets_go_elsewhere_when_their_paths_would_be_too_long(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    world = World(deep, monkeypatch)
    async with world.up():
        assert not (deep / "run").exists()
        assert world.row.state == "ready"


async def test_stale_sockets_do_not_stop_a_start(world):
    (world.data_dir / "run").mkdir()
    (world.data_dir / "run" / "cpu0.sock").write_text("stale")
    async with world.up():
        assert world.row.state == "ready"


async def test_an_engine_whose_speed_is_known_is_not_measured_again(world):
    world.known = TimeModel(prefill_base_ms=1, prefill_ms_per_token=2, decode_ms_per_sequence=3)
    async with world.up():
        assert world.row.time_model == world.known
        assert (await world.fleet.client(world.row.gpu).metrics()).prompt_tokens == 0

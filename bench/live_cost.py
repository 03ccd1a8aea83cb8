"""What the live feed costs the daemon: CPU time by the number of consoles, at a modelled load.

    python bench/live_cost.py [--rate 100] [--seconds 20] [--consoles 0,1,5,10]

Requests of six tenants go through a real machine over four engines that only exist on paper, and a log line is written
for each; the feed is served by the daemon's own server to consoles in a process of their own. Printed is the process's
CPU time by the time that has passed, and per console what it is beyond that without any.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

import httpx

from preble.daemon.api.admin import AdminService
from preble.daemon.api.application import make_application
from preble.daemon.api.server import make_server
from preble.daemon.config import LiveConfig, SchedulerConfig, ServerConfig
from preble.daemon.flow.events import Arrived, EngineUp, Finished, FirstToken
from preble.daemon.flow.machine import Machine
from preble.daemon.ids import BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.obs.live.board import Board, Identity
from preble.daemon.obs.live.facts import End, GpuNow, TenantNow
from preble.daemon.obs.live.feed import LiveFeed
from preble.daemon.sched.types import EngineLimits, Prompt, RequestSpec, TimeModel
from preble.daemon.wire.live import LogLine

MODEL = ModelName("m")
LIMITS = EngineLimits(
    block_size=16, kv_blocks=20_000, max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=32_768
)
TIMES = TimeModel(prefill_base_ms=5.0, prefill_ms_per_token=0.05, decode_ms_per_sequence=0.5)
GPUS, TENANTS = 4, 6
FIRST_TOKEN_S, ANSWER_S = 0.1, 1.0


class Load:
    """The machine, the requests that go through it, and what the board asks for."""

    def __init__(self, consoles: int) -> None:
        identity = Identity(
            boot_id="b", version="0", name="bench", models=[MODEL], policy="e2", fairness="d2lpm",
            epoch_s=time.time() - time.monotonic(), started_s=time.monotonic(),
        )  # fmt: skip
        config = LiveConfig(max_consoles=max(consoles, 1))
        self.machine = Machine(SchedulerConfig())
        self.board = Board(config, identity, self)
        self.feed = LiveFeed(self.board, config)
        for number in range(GPUS):
            self.tell(EngineUp(gpu=GpuId(f"gpu{number}"), model=MODEL, epoch=1, limits=LIMITS, time_model=TIMES))

    def tell(self, event):
        now_s = time.monotonic()
        effects = self.machine.step(event, now_s)
        self.board.stepped(now_s, event, effects)
        return effects

    async def request(self, number: int) -> None:
        tenant = f"tenant{number % TENANTS}"
        keys = tuple(BlockKey((number % 50) << 32 | block) for block in range(60))
        spec = RequestSpec(
            request_id=RequestId(f"req_{number:024x}"), model=MODEL, tenant=TenantName(tenant),
            prompt=Prompt(n_tokens=1000, block_keys=keys), max_output_tokens=128,
        )  # fmt: skip
        decision = self.tell(Arrived(request=spec))[0].decision
        await asyncio.sleep(FIRST_TOKEN_S)
        self.tell(FirstToken(attempt_id=decision.attempt_id))
        await asyncio.sleep(ANSWER_S)
        self.tell(Finished(attempt_id=decision.attempt_id, output_tokens=64))
        end = End(
            request_id=spec.request_id, tenant=tenant, model=MODEL, state="finished", gpu=decision.gpu,
            mode=decision.mode.value, prompt_tokens=1000, predicted_cached_tokens=decision.cached_tokens,
            cached_tokens=decision.cached_tokens, output_tokens=64, attempts=1, queue_ms=1.0, ttft_ms=100.0,
            latency_ms=1100.0, error=None,
        )  # fmt: skip
        self.board.ended(end, time.monotonic())
        fields = {"request_id": spec.request_id, "tenant": tenant, "status": "finished", "gpu": decision.gpu}
        self.board.logged(LogLine(at="2026-01-01T00:00:00Z", level="info", event="request_ended", fields=fields))

    async def run(self, rate: float) -> None:
        started_s, tasks = time.monotonic(), set()
        number = 0
        while True:
            while number < (time.monotonic() - started_s) * rate:
                task = asyncio.create_task(self.request(number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
            await asyncio.sleep(0.005)

    def gpus(self):
        return [
            GpuNow(
                gpu=view.gpu, state="ready", draining=False, detail="", model=MODEL, running=view.running,
                waiting=view.waiting, kv_used_ratio=0.5, kv_cached_ratio=0.5, kv_blocks=view.kv_blocks, cached_tokens=1,
                load_ms=view.load_ms, outstanding_ms=view.outstanding_ms, decode_ratio=view.decode_ratio,
                prefill_error_ratio=0.1, decode_error_ratio=0.1, restarts=0, uptime_s=1.0, age_s=0.1,
            )
            for view in self.machine.views(time.monotonic())
        ]  # fmt: skip

    def tenants(self, active, most):
        names = [TenantName(f"tenant{number}") for number in range(TENANTS)]
        return [
            TenantNow(tenant=name, priority="interactive", weight=1.0, suspended=False, budget_used_ratio=None)
            for name in names
        ]

    def standings(self, tenants):
        return self.machine.standings(tenants)

    def templates(self):
        return ()

    def failures(self):
        return ()


async def measure(rate: float, seconds: float, consoles: int) -> float:
    """CPU time by the time that has passed."""
    load = Load(consoles)
    nothing: Any = None  # the feed's route needs no more
    admin = AdminService(lambda *_: nothing, *[nothing] * 5, load.feed, nothing)
    app = make_application(ServerConfig(), health=None, inference=None, admin=admin, templates=None, pins=None)
    server = make_server(app, ServerConfig(port=0))
    tasks = [asyncio.create_task(each) for each in (server.serve(), load.feed.run(), load.run(rate))]
    while not server.started:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    command = (sys.executable, __file__, "--read", str(port), str(consoles))
    reading = await asyncio.create_subprocess_exec(*command)
    await asyncio.sleep(3)
    cpu_s, began_s = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    used = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
    reading.kill()
    await reading.wait()
    load.feed.close()
    server.should_exit = True
    await tasks[0]
    for task in tasks[1:]:
        task.cancel()
    return used


async def read(port: int, consoles: int) -> None:
    """So many consoles that read all they are told."""
    async with httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None)) as client:

        async def one() -> None:
            async with client.stream("GET", f"http://127.0.0.1:{port}/admin/v1/live") as response:
                async for _ in response.aiter_bytes():
                    pass

        await asyncio.gather(*(one() for _ in range(consoles)), asyncio.sleep(3600))


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        asyncio.run(read(int(sys.argv[2]), int(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--consoles", default="0,1,5,10")
    options = parser.parse_args()
    alone = None
    for consoles in map(int, options.consoles.split(",")):
        used = asyncio.run(measure(options.rate, options.seconds, consoles))
        alone = used if alone is None else alone
        each = f", {(used - alone) / consoles:.2%} for each" if consoles else ""
        print(f"{consoles:>2} consoles: {used:.2%} of a core{each}", flush=True)


if __name__ == "__main__":
    main()

"""A request's life against two stand-in engines, which take one sequence each."""

import asyncio
import tempfile
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, time

import msgspec
from tests.core import CONFIG, LIMITS, MODEL, spec, up
from tests.fake_engine import FakeEngine

from preble.daemon.config import LimitsConfig
from preble.daemon.engine.client import EngineClient
from preble.daemon.flow.call import Call
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Runtime
from preble.daemon.ids import KeyId, RequestId, TenantName
from preble.daemon.tenancy.account import NOTHING, Moment
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.limits import Limiter
from preble.daemon.tenancy.model import Tenant
from preble.daemon.wire.settings import Limits, TenantSettings

PROMPT = "x" * 40
TENANT, KEY = TenantName("acme"), KeyId("k")
DEADLINE_S = 10.0


class House:
    """Two engines, the machine's host, and everything that was settled."""

    def __init__(self, engines, clients):
        self.engines = engines
        self.clients = clients
        self.settled = []
        self.directory = Directory()
        self.limiter = Limiter(self.directory, LimitsConfig())
        self.runtime = Runtime(Machine(CONFIG), on_step_s=lambda _: None)
        for gpu in engines:
            self.runtime.post(up(gpu, limits=replace(LIMITS, max_num_seqs=1)))

    def life(
        self,
        name="r1",
        *,
        prompt=PROMPT,
        stream=False,
        timeout_s=DEADLINE_S,
        hide_cache=False,
        asks_length=True,
        lane="t",
        **body,
    ):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 5, "stream": stream, **body}
        if stream:
            body["stream_options"] = {"include_usage": True}

        async def encode():
            return spec(name, prompt, tenant=lane)

        call = Call(
            request_id=RequestId(name),
            tenant=TENANT,
            key_id=KEY,
            path="/v1/completions",
            model=MODEL,
            body=msgspec.json.encode(body),
            stream=stream,
            hide_usage=stream,
            hide_cache=hide_cache,
            encode=encode,
            asks_length=asks_length,
            shortened=lambda tokens: msgspec.json.encode({**body, "max_tokens": tokens}),
            engine_ids=(f"cmpl-{name}-0",),
            received_s=monotonic(),
        )
        return RequestLife(
            call,
            runtime=self.runtime,
            limiter=self.limiter,
            door=self.clients.__getitem__,
            settle=self.settled.append,
            timeout_s=timeout_s,
        )

    def limit(self, **limits):
        settings = TenantSettings(limits=Limits(**limits))
        self.directory.put_tenant(Tenant(name=TENANT, settings=settings, salt_epoch=0, version=1, created_at_s=0))

    def spent_tokens(self):
        """Of the tenant's budget."""
        account, _ = self.limiter.accounts(TENANT, KEY)
        (day,) = account.levels(NOTHING, Moment(monotonic(), time()))
        return day.spent

    @property
    def busy(self):
        return [engine for engine in self.engines.values() if engine.running]

    async def at_rest(self):
        """Everything has been settled and given back."""
        await until(lambda: not self.runtime.spawned and not self.busy)
        assert self.runtime.live_requests == 0
        for account in self.limiter.accounts(TENANT, KEY):
            assert (account.running, account.queued) == (0, 0)
        for view in self.runtime.views():
            assert (view.running, view.waiting, view.sequences, view.held_blocks) == (0, 0, 0, 0)


@asynccontextmanager
async def open_house():
    """At the end everything must be at rest, and settled once."""
    with tempfile.TemporaryDirectory(prefix="p") as folder:  # a socket's path must be short
        engines = {gpu: FakeEngine(Path(folder) / gpu, model=MODEL) for gpu in ("a", "b")}
        clients = {gpu: EngineClient(Path(folder) / gpu) for gpu in engines}
        async with engines["a"], engines["b"]:
            house = House(engines, clients)
            yield house
            await house.at_rest()
            assert len(house.settled) == len({one.call.request_id for one in house.settled}), "settled twice"
        for client in clients.values():
            await client.close()


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


async def read(answer):
    return b"".join([chunk async for chunk in answer.chunks])

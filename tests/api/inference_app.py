"""The whole app on the real server, over one stand-in engine and keys in memory: for tests of what clients see."""

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import time

import httpx
import msgspec
from tests.api.documented import Documented
from tests.byte_model import model_files
from tests.core import CONFIG, MODEL, up
from tests.fake_engine import FakeEngine

from preble.daemon.api.application import Authenticator, make_application
from preble.daemon.api.health import HealthService
from preble.daemon.api.inference import InferenceService
from preble.daemon.api.models import ServedModel
from preble.daemon.api.server import make_server
from preble.daemon.config import LimitsConfig, ServerConfig
from preble.daemon.engine.client import EngineClient
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.flow.events import EngineDown
from preble.daemon.flow.lives import Lives
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Runtime
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.ids import TenantName
from preble.daemon.obs.metrics import Metrics
from preble.daemon.prompt import PromptEncoder
from preble.daemon.sched.types import EngineLimits
from preble.daemon.templates.body import checked
from preble.daemon.templates.directory import Template, Templates, Version
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.failures import FailureLimiter
from preble.daemon.tenancy.keys import CHANCE_BYTES, id_of, mint
from preble.daemon.tenancy.limits import Limiter
from preble.daemon.tenancy.model import OPERATOR_SCOPES, TENANT_SCOPES, ApiKey, Tenant
from preble.daemon.tenancy.salts import MASTER_BYTES, Salts
from preble.daemon.wire.settings import Limits, TenantSettings
from preble.daemon.wire.templates import TemplateBody

GPU = "gpu0"
TENANT = TenantName("acme")
FAILURES_AT_ONCE = 20
MASTER = bytes(range(MASTER_BYTES))
LIMITS = EngineLimits(
    block_size=16, kv_blocks=4096, max_num_seqs=64, max_num_batched_tokens=8192, max_model_len=2000
)  # fmt: skip
DEADLINE_S = 30.0
MAX_BODY_BYTES = 200_000


class Shelf:
    """Templates, each with one version, in memory."""

    def __init__(self) -> None:
        self.directory = Templates(lambda _: True)
        self._bodies: dict[int, TemplateBody] = {}

    def put(self, name: str, body: TemplateBody, owner: TenantName | None = TENANT) -> None:
        version = Version(number=1, digest=b"", created_at_s=0.0, created_by="k")
        number = len(self._bodies) + 1
        self._bodies[number] = checked(body)
        self.directory.put(
            Template(
                id=number,
                owner=owner,
                name=name,
                description="",
                created_at_s=0.0,
                created_by="k",
                changes=1,
                versions={1: version},
            )
        )

    async def tokens(self, *_) -> None:
        """Nobody has found out before."""

    async def put_tokens(self, *_) -> None:
        """It is not remembered."""

    async def body(self, template: Template, _: Version) -> TemplateBody:
        return self._bodies[template.id]


class House:
    """A daemon without its supervisor: the test says when its engine is up."""

    def __init__(self, engine: FakeEngine, encoder: PromptEncoder, server: ServerConfig) -> None:
        self.engine = engine
        self.encoder = encoder
        self.config = server
        self.settled = []
        self.lives = Lives()
        self.directory = Directory()
        self.put_tenant(TENANT)
        self.limiter = Limiter(self.directory, LimitsConfig())
        self.key = self.make_key(TENANT)
        self.operator_key = self.make_key(None)
        self.up = True
        self.metrics = Metrics()
        config = msgspec.structs.replace(CONFIG, prefill_lead_tokens=LIMITS.max_num_batched_tokens)
        self.runtime = Runtime(Machine(config), on_step_s=lambda _: None)
        self.runtime.post(up(GPU, limits=LIMITS))
        self.shelf = Shelf()
        self.base_url = ""
        self.port = 0
        self.server = None
        model = ModelEncoder(
            MODEL,
            LIMITS.block_size,
            encoder,
            engine=lambda: self.client,
            max_model_len=self._max_model_len,
        )
        self.templates = TemplateDesk(self.shelf, lambda: {MODEL: model})
        failures = FailureLimiter(per_minute=60, at_once=FAILURES_AT_ONCE, addresses_kept=100)
        check = Authenticator(self.directory, failures, self.metrics.auth_failure)
        self.app = make_application(
            server,
            health=HealthService(lambda: None if self.up else "No engine serves it.", self.metrics.render),
            inference=InferenceService(
                {MODEL: ServedModel(MODEL, 1_700_000_000, model, self._max_model_len)},
                check,
                Salts(MASTER, self.directory).scope,
                self.limiter.limits,
                self.templates,
                self._live,
            ),
            admin=None,
            templates=None,
            pins=None,
        )
        self.asgi = Documented(self.app)
        self.client = EngineClient(engine.socket_path)

    def _max_model_len(self):
        return LIMITS.max_model_len if self.up else None

    def _live(self, call):
        life = RequestLife(
            call,
            runtime=self.runtime,
            limiter=self.limiter,
            door=lambda _: self.client,
            settle=self.lives.settled(self.settled.append),
            timeout_s=self.config.request_timeout_s,
        )
        return self.lives.begin(call, life)

    def put_tenant(self, name: TenantName, *, salt_epoch: int = 0, **settings: object) -> None:
        """Have a tenant of these settings from the next request on."""
        chosen = TenantSettings(**settings)
        self.directory.put_tenant(
            Tenant(name=name, settings=chosen, salt_epoch=salt_epoch, version=1, created_at_s=0.0)
        )

    def limit(self, **limits: object) -> None:
        """What an operator sets for the tenant."""
        self.put_tenant(TENANT, limits=Limits(**limits))

    def make_key(self, tenant: TenantName | None, *, expires_at_s: float | None = None, **limits: object) -> str:
        made = mint("live" if tenant else "op", os.urandom(CHANCE_BYTES))
        self.directory.put_key(
            ApiKey(
                id=made.id,
                tenant=tenant,
                name="",
                digest=made.digest,
                last4=made.last4,
                scopes=TENANT_SCOPES if tenant else OPERATOR_SCOPES,
                created_at_s=time(),
                expires_at_s=expires_at_s,
                revoked_at_s=None,
                limits=Limits(**limits),
            )
        )
        return made.text

    def lose_engine(self, *, known: bool) -> None:
        """The engine is down; `known` when the daemon has been told how long its prompts may be."""
        self.runtime.post(EngineDown(gpu=GPU))
        self.up = known

    @property
    def authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    async def at_rest(self) -> None:
        """Every request has been settled, once, and has given back what it held."""
        await until(lambda: not self.runtime.live_requests and not self.runtime.spawned and not self.engine.running)
        for view in self.runtime.views():
            assert (view.running, view.waiting, view.sequences, view.held_blocks) == (0, 0, 0, 0)
        for account in self.limiter.accounts(TENANT, id_of(self.key)):
            assert (account.running, account.queued) == (0, 0)
        assert len(self.settled) == len({one.call.request_id for one in self.settled})

    async def raw(self, data: bytes) -> bytes:
        """What the server says to these bytes until it hangs up."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await reader.read()
        finally:
            writer.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def request(self, body: object, *, path: str = "/v1/completions", head: str = "") -> bytes:
        """A whole HTTP request as bytes."""
        content = json.dumps(body).encode()
        lines = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\n{head}"
        return f"{lines}content-length: {len(content)}\r\n\r\n".encode() + content


@asynccontextmanager
async def open_house(**server: object) -> AsyncIterator[House]:
    """Serve on a free port while the block runs; at the end everything must be at rest, and have been as documented."""
    config = ServerConfig(host="127.0.0.1", port=0, max_body_bytes=MAX_BODY_BYTES, **server)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p")))  # a socket's path must be short
        engine = await stack.enter_async_context(
            FakeEngine(folder / "s", model=MODEL, block_size=LIMITS.block_size, max_model_len=LIMITS.max_model_len)
        )
        encoder = PromptEncoder.load(model_files(folder))
        stack.callback(encoder.close)
        house = House(engine, encoder, config)
        stack.push_async_callback(house.client.close)
        async with _serving(house):
            yield house
        await house.at_rest()
        assert not house.asgi.faults


@asynccontextmanager
async def _serving(house: House) -> AsyncIterator[None]:
    server = house.server = make_server(house.asgi, house.config)
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or serving.done())
        house.port = server.servers[0].sockets[0].getsockname()[1]
        house.base_url = f"http://127.0.0.1:{house.port}"
        yield
    finally:
        server.should_exit = True
        async with asyncio.timeout(DEADLINE_S):
            await serving


@asynccontextmanager
async def open_client(house: House, key: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {key or house.key}"}
    async with httpx.AsyncClient(
        base_url=house.base_url, headers=headers, timeout=DEADLINE_S, trust_env=False
    ) as client:
        yield client


async def until(condition) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


def problem(response: httpx.Response) -> dict[str, str | None]:
    """The error in an answer, in OpenAI's shape and in no other."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    assert body["error"]["message"]
    return body["error"]


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a killed client does, without a farewell."""
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()

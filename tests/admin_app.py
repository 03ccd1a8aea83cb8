"""The admin routes over a real database and two GPUs that only take orders, for tests of routes and commands."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from types import SimpleNamespace

import msgspec
import numpy as np
from litestar import Litestar

from preble.daemon.api.admin import AdminService
from preble.daemon.api.application import Authenticator, make_application
from preble.daemon.api.dry_run import DryRun
from preble.daemon.api.health import HealthService
from preble.daemon.api.models import ServedModel
from preble.daemon.api.pins import PinService
from preble.daemon.api.templates import TemplateService
from preble.daemon.app import counting_evictions, every, show_templates
from preble.daemon.config import Config, LiveConfig, ServerConfig
from preble.daemon.errors import EngineError, NotFound
from preble.daemon.flow.call import Call
from preble.daemon.flow.console import ConsoleDesk
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.flow.events import BlocksStored, KvReported
from preble.daemon.flow.keeper import Keeper
from preble.daemon.flow.kept import KeptPrompts
from preble.daemon.flow.live_templates import naming
from preble.daemon.flow.livefeed import feeding, make_board
from preble.daemon.flow.livehost import DaemonHost
from preble.daemon.flow.lives import Lives
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Runtime
from preble.daemon.flow.settle import Bookkeeper
from preble.daemon.flow.template_stats import StatsDesk
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.flow.warming import Reports, Warmer
from preble.daemon.obs.live.board import Board
from preble.daemon.obs.live.feed import LiveFeed
from preble.daemon.obs.metrics import Metrics
from preble.daemon.prompt import NotReproducible, PromptEncoder, Traits
from preble.daemon.sched.blocks import BlockHasher, root_key
from preble.daemon.store.accounts import Accounts
from preble.daemon.store.bootstrap import ensure_first_keys, ensure_master_key
from preble.daemon.store.db import Place, open_database
from preble.daemon.store.decisions import DecisionLog
from preble.daemon.store.evictions import EvictionLog
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.pins import PinStore
from preble.daemon.store.templates import TemplateStore
from preble.daemon.tenancy.audit import LOCAL, Author
from preble.daemon.tenancy.failures import FailureLimiter
from preble.daemon.tenancy.ledger import Status, UsageRecord
from preble.daemon.tenancy.limits import Limiter
from preble.daemon.tenancy.prices import Prices
from preble.daemon.tenancy.salts import Salts
from preble.daemon.wire.admin import Actual, CandidateRow, Explanation, GpuRow
from tests.byte_model import model_files
from tests.core import BLOCK, CONFIG, LIMITS, MODEL, tokens, up

FLUSH_S = 0.001
GPUS = ("gpu0", "gpu1")
KEPT_BYTES = 20_000
FAILURES_AT_ONCE = 20
LIVE = LiveConfig(interval_ms=100, max_consoles=3, ticks_kept=1000)


def gpu_row(gpu: str, **changes: object) -> GpuRow:
    row = GpuRow(
        gpu=gpu,
        state="ready",
        model="preble-demo",
        running=3,
        waiting=1,
        kv_used_ratio=0.25,
        hit_ratio=0.8125,
        load_ms=1410.4,
        ttft_p50_ms=41.7,
        pid=4711,
        restarts=0,
        uptime_s=61.0,
        indexed_blocks=120,
        draining=False,
        detail="",
        outstanding_ms=1620.3,
        prefill_error_ratio=0.07,
        return_hit_ratio=0.93,
    )
    return msgspec.structs.replace(row, **changes)


class Gpus:
    """Keeps the orders it was given."""

    def __init__(self) -> None:
        self._rows = {
            "cpu0": gpu_row("cpu0"),
            "cpu1": gpu_row("cpu1", state="down", detail="exited with status 1", kv_used_ratio=None, ttft_p50_ms=None),
        }

    def rows(self) -> list[GpuRow]:
        return list(self._rows.values())

    async def drain(self, gpu: str) -> None:
        self._change(gpu, draining=True)

    async def undrain(self, gpu: str) -> None:
        self._change(gpu, draining=False)

    async def restart(self, gpu: str) -> None:
        self._change(gpu, restarts=1)

    def foresee(self, gpu: str, order: str) -> list[str]:
        return [f"{order} of {gpu}: 3 running requests finish first."]

    def _change(self, gpu: str, **changes: object) -> None:
        if gpu not in self._rows:
            raise NotFound(f"there is no GPU {gpu!r}; there are cpu0, cpu1", param="gpu")
        self._rows[gpu] = msgspec.structs.replace(self._rows[gpu], **changes)


class Letters:
    """Makes a token of each letter. Of a prompt with a `suffix` only an engine can tell, and that one fails."""

    def __init__(self, traits: Traits) -> None:
        self.traits = traits

    async def encode_chat(self, body: dict, max_model_len: int | None, scope: str) -> np.ndarray:
        return tokens("".join(message["content"] for message in body["messages"]))

    async def encode_completion(self, body: dict, max_model_len: int | None, scope: str) -> list[np.ndarray]:
        if "suffix" in body:
            raise NotReproducible("suffix is given")
        return [tokens(body["prompt"])]

    async def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))

    async def render_chat(self, body: dict) -> list[int]:
        raise EngineError("it is gone")

    async def render_completion(self, body: dict) -> list[list[int]]:
        raise EngineError("it is gone")


class Prefiller:
    """An engine that computes whatever it is sent, at once, and reports it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.sent: list[tuple[str, dict]] = []
        """GPUs and bodies."""
        self.broken = False

    def of(self, gpu: str) -> "Prefiller":
        self.gpu = gpu
        return self

    @asynccontextmanager
    async def stream(self, path: str, body: bytes, headers: dict) -> AsyncIterator[SimpleNamespace]:
        wanted = msgspec.json.decode(body)
        self.sent.append((self.gpu, wanted))
        if self.broken:
            raise EngineError("it is gone")
        root = root_key(MODEL, salt=wanted["cache_salt"])
        chain = tuple(BlockHasher(BLOCK).chain(root, np.asarray(wanted["prompt"], dtype=np.uint32)))
        self._runtime.post(KvReported(gpu=self.gpu, epoch=1, changes=(BlocksStored(keys=chain, parent=None),)))
        usage = {"prompt_tokens": len(wanted["prompt"]), "completion_tokens": 1, "total_tokens": 1}
        answer = msgspec.json.encode({"choices": [], "usage": usage})

        async def chunks() -> AsyncIterator[bytes]:
            yield answer

        yield SimpleNamespace(status=200, headers={"content-type": "application/json"}, chunks=chunks())


@dataclass(frozen=True)
class AdminApp:
    app: Litestar
    accounts: Accounts
    ledger: Ledger
    evictions: EvictionLog
    metrics: Metrics
    decisions: DecisionLog
    gpus: Gpus
    salts: Salts
    runtime: Runtime
    """Of the GPUs gpu0 and gpu1, which serve a model."""
    engines: Prefiller
    board: Board
    feed: LiveFeed
    lives: Lives
    encoder: ModelEncoder
    """Makes a token of each letter."""
    templates: TemplateDesk


@asynccontextmanager
async def open_admin_app(
    data_dir: Path, health: HealthService | None = None, live: LiveConfig = LIVE, pin_share: float = 0.2
) -> AsyncIterator[AdminApp]:
    """The app with its first keys in `data_dir`: operator.key and default.key. Its tenants' routes do not work."""
    database = await open_database(Place.of(data_dir))
    accounts = await Accounts.load(database)
    await ensure_first_keys(accounts, data_dir, create_default_tenant=True, now_s=0.0)
    ledger, decisions = Ledger(database, FLUSH_S), DecisionLog(database, FLUSH_S, kept=100)
    evicted, metrics = await EvictionLog.load(database, FLUSH_S, time()), Metrics()
    evictions = counting_evictions(evicted, metrics)

    failures = FailureLimiter(per_minute=60, at_once=FAILURES_AT_ONCE, addresses_kept=100)
    check = Authenticator(accounts.directory, failures, on_failure=lambda: None)
    config = Config(live=live)
    limiter = Limiter(accounts.directory, config.limits)
    host = DaemonHost(accounts.directory, limiter, lambda: [ledger.fault])
    board = make_board(config, host)
    reports = Reports()
    told = every(board.stepped, reports.stepped, evictions.stepped)
    runtime = Runtime(Machine(CONFIG), on_step_s=lambda _: None, record=told)
    evictions.attach(runtime.residency)
    host.attach(SimpleNamespace(rows=()), runtime)
    for gpu in GPUS:
        runtime.post(up(gpu))
    salts = Salts(ensure_master_key(data_dir), accounts.directory)
    encoder = PromptEncoder.load(model_files(data_dir))
    store = await TemplateStore.load(database, accounts.audit, accounts.directory)
    letters = Letters(encoder.traits)
    served = _served(encoder, letters)
    desk = TemplateDesk(store, lambda: {MODEL: served.encoder})
    plain = _served(letters, letters, KeptPrompts(KEPT_BYTES) if live.keep_prompts else None)
    dry_run = DryRun({MODEL: plain}, salts.scope, runtime.preview, desk)
    gpus = Gpus()
    stack, lives = AsyncExitStack(), Lives()
    console = ConsoleDesk(
        runtime, lives, CONFIG, lambda: {MODEL: plain.encoder}, naming(store.directory, evictions.ending_in)
    )
    feed = await stack.enter_async_context(feeding(board, config, None))
    service = AdminService(check, accounts, ledger, decisions, gpus, dry_run, feed, console)
    templates = TemplateService(check, accounts.directory, desk, {MODEL: served}, limiter.limits)
    engines = Prefiller(runtime)
    books = Bookkeeper(
        record_usage=ledger.record,
        record_explanation=decisions.record,
        metrics=metrics,
        prices=Prices(config.prices),
        recognised=desk.recogniser.of,
    )
    await desk.recogniser.recall()

    def live(call: Call) -> RequestLife:
        return RequestLife(call, runtime=runtime, limiter=limiter, door=engines.of, settle=books.settle, timeout_s=30.0)

    warmer = Warmer(runtime, desk, salts.scope, live, reports, evictions)
    keeper = Keeper(PinStore(database, accounts.audit), pin_share, desk, warmer, runtime, accounts.directory, reports)
    show_templates(books, host, keeper, desk, metrics, evictions)
    await stack.enter_async_context(keeper.running())
    pins = PinService(warmer, accounts.audit, keeper, StatsDesk(ledger, evicted, desk, keeper, warmer))
    app = make_application(ServerConfig(), health=health, inference=None, admin=service, templates=templates, pins=pins)
    try:
        yield AdminApp(
            app,
            accounts,
            ledger,
            evicted,
            metrics,
            decisions,
            gpus,
            salts,
            runtime,
            engines,
            board,
            feed,
            lives,
            plain.encoder,
            desk,
        )
    finally:
        await stack.aclose()
        await ledger.close()
        await evicted.close()
        await decisions.close()
        await database.dispose()
        encoder.close()


def _served(tokeniser: Letters | PromptEncoder, letters: Letters, kept: KeptPrompts | None = None) -> ServedModel:
    encoder = ModelEncoder(
        MODEL, BLOCK, tokeniser, engine=lambda: letters, max_model_len=lambda: LIMITS.max_model_len, kept=kept
    )
    return ServedModel(MODEL, 0, encoder, lambda: LIMITS.max_model_len)


def author(at_s: float = 1.0) -> Author:
    return Author(name=LOCAL, at_s=at_s)


def usage(number: int, tenant: str = "default", created_at_s: float | None = None, **changes: object) -> UsageRecord:
    record = UsageRecord(
        request_id=f"req_{number}",
        tenant=tenant,
        key_id="k",
        model="preble-demo",
        endpoint="/v1/completions",
        gpu="cpu0",
        mode="exploit",
        status=Status.FINISHED,
        http_status=200,
        created_at_s=float(number) if created_at_s is None else created_at_s,
        prompt_tokens=10,
        cached_tokens=4,
        predicted_cached_tokens=4,
        output_tokens=3,
        attempts=1,
        queue_ms=0.5,
        ttft_ms=None,
        latency_ms=20.0,
        gpu_ms=12.5,
        cost_micros=None,
    )
    return msgspec.structs.replace(record, **changes)


def explanation(request_id: str = "req_1", **changes: object) -> Explanation:
    """Exploited: the GPU that costs least in all does not hold the prefix, and loses."""
    costs = {"gpu0": (2410, 1410.0, 0.0, 96.0), "gpu1": (2410, 1610.0, 0.0, 96.0), "gpu5": (0, 210.0, 55.0, 402.0)}
    whole = Explanation(
        request_id=request_id,
        model="preble-demo",
        gpu="gpu0",
        mode="exploit",
        reason="2410 tokens are cached and 710 are not: lowest cost of the 2 GPUs that cache the biggest part",
        prompt_tokens=3120,
        predicted_cached_tokens=2410,
        predicted_output_tokens=64,
        candidates=[
            CandidateRow(
                gpu=gpu,
                cached_tokens=cached,
                missed_tokens=3120 - cached,
                load_ms=load_ms,
                evict_ms=evict_ms,
                prefill_ms=prefill_ms,
                wait_ms=0.0,
                decode_ms=0.0,
                requests=0,
                cost_ms=load_ms + evict_ms + prefill_ms,
                holds_prefix=cached > 0,
                decode_ratio=0.25,
            )
            for gpu, (cached, load_ms, evict_ms, prefill_ms) in costs.items()
        ],
        attempts=1,
        decided_at="2026-11-21T14:02:30.900+00:00",
        actual=Actual(
            status="finished", cached_tokens=2400, output_tokens=61, queue_ms=1900.0, ttft_ms=2400.0, latency_ms=3100.5
        ),
    )
    return msgspec.structs.replace(whole, **changes)

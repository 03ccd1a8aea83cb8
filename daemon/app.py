"""The composition root: the only place that knows which store, engines, clock and server are in use."""

import os
from asyncio import sleep, wait
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import ParamSpec

import structlog
from litestar import Litestar

from preble.daemon.api.admin import AdminService
from preble.daemon.api.application import Authenticator, make_application
from preble.daemon.api.dry_run import DryRun
from preble.daemon.api.health import HealthService
from preble.daemon.api.inference import InferenceService
from preble.daemon.api.models import ServedModel
from preble.daemon.api.pins import PinService
from preble.daemon.api.templates import TemplateService
from preble.daemon.background import alongside
from preble.daemon.config import DEMO_MODEL, AuthConfig, Config
from preble.daemon.engine.demo_model import ensure_demo_model
from preble.daemon.engine.fleet import Fleet
from preble.daemon.engine.hardware import detect
from preble.daemon.engine.launch import EngineSpec, plan
from preble.daemon.errors import ConfigError, EngineError, Unavailable
from preble.daemon.flow.call import Call
from preble.daemon.flow.console import ConsoleDesk
from preble.daemon.flow.encode import ModelEncoder
from preble.daemon.flow.events import EngineUp, Event, TenantStands
from preble.daemon.flow.evictions import EvictionCounter
from preble.daemon.flow.gpus import GpuDesk
from preble.daemon.flow.keeper import Keeper
from preble.daemon.flow.kept import KeptPrompts
from preble.daemon.flow.live_templates import LiveTemplates, naming
from preble.daemon.flow.livefeed import feeding, make_board
from preble.daemon.flow.livehost import DaemonHost, end_of
from preble.daemon.flow.lives import Lives
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.recording import Record
from preble.daemon.flow.request import RequestLife
from preble.daemon.flow.runtime import Runtime
from preble.daemon.flow.settle import Bookkeeper
from preble.daemon.flow.template_stats import StatsDesk
from preble.daemon.flow.templates import TemplateDesk
from preble.daemon.flow.warming import Reports, Warmer
from preble.daemon.ids import GpuId, ModelName, TenantName
from preble.daemon.obs.live.tail import LogTail
from preble.daemon.obs.metrics import Metrics
from preble.daemon.obs.recorder import recording
from preble.daemon.prompt import PromptEncoder
from preble.daemon.sched.attempt import EngineView
from preble.daemon.sched.returns import ReturnCounts
from preble.daemon.sched.types import TimeModel
from preble.daemon.store.evictions import EvictionLog
from preble.daemon.store.ledger import Ledger
from preble.daemon.store.opening import Stores, open_stores
from preble.daemon.store.time_models import TimeModels
from preble.daemon.templates.directory import VersionKey
from preble.daemon.tenancy.account import Limit
from preble.daemon.tenancy.buckets import day_at, month_at
from preble.daemon.tenancy.directory import Directory
from preble.daemon.tenancy.failures import FailureLimiter
from preble.daemon.tenancy.limits import Limiter
from preble.daemon.tenancy.model import Tenant
from preble.daemon.tenancy.prices import Prices

Say = Callable[[str], None]
_Told = ParamSpec("_Told")

_REMEMBER_S = 60.0
_ENOUGH_OBSERVATIONS = 32
"""Of an engine's speed; fewer say too little to be kept in place of a measurement."""
_SEE_OUT_S = 6.0
"""How long requests that were cut off at the end of the daemon may take to be settled."""
_FORGET_S = 3600.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon, complete but for its HTTP server."""

    app: Litestar
    data_dir: Path
    model: ModelName
    """The first model served."""
    unready: Callable[[], str | None]
    """Why requests cannot be served now; None when they can."""
    settled: Callable[[], Awaitable[None]]
    """Waits until every engine has been ready, or has failed, for the first time."""
    end_feeds: Callable[[], None]
    """Ends streams that would go on for as long as the daemon."""


@asynccontextmanager
async def open_daemon(
    config: Config, say: Say, record_to: Path | None = None, tail: LogTail | None = None
) -> AsyncIterator[Daemon]:
    """Bring up storage and engines; at the end settle requests, end the engines and write what is unwritten.

    Engines start in the background: `Daemon.unready` tells when they can serve. All that happens to the machine goes to
    the file `record_to`. Consoles are shown the log of `tail`. Raises `ConfigError`.
    """
    data_dir = Path(config.data_dir)
    specs, paths = _plan(config, data_dir, say)
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(config, data_dir))
        metrics = Metrics()
        record = await stack.enter_async_context(recording(record_to, config.scheduler))
        limiter = await budgeted(config, stores.accounts.directory, stores.ledger)
        host = DaemonHost(stores.accounts.directory, limiter, stores.faults)
        board = make_board(config, host)
        reports = Reports()
        evictions = counting_evictions(stores.evictions, metrics)
        told = every(record, board.stepped, reports.stepped, evictions.stepped)
        timed = every(metrics.observe_decision, board.decided)
        engines = Engines(config, specs, paths, stores.time_models, say, timed, told)
        host.attach(engines.fleet, engines.runtime)
        feed = await stack.enter_async_context(feeding(board, config, tail))
        templates = TemplateDesk(stores.templates, engines.encoders)
        await templates.recogniser.recall()
        books = Bookkeeper(
            record_usage=stores.ledger.record,
            record_explanation=stores.decisions.record,
            metrics=metrics,
            prices=Prices(config.prices),
            tell=lambda settled: board.ended(end_of(settled), monotonic()),
            time_model=engines.runtime.time_model,
            recognised=templates.recogniser.of,
        )
        live = partial(engines.live, limiter=limiter, books=books)
        runtime = engines.runtime
        await stack.enter_async_context(runtime.upkeep())
        await stack.enter_async_context(engines.running())
        desk = GpuDesk(engines.fleet, runtime.views, books.ttft_p50_ms, runtime.returns, runtime.foresee)
        metrics.track_gpus(desk.gauges)
        metrics.track_returns(engines.returns)
        metrics.track_fairness(lambda: board.fairness)
        directory = stores.accounts.directory
        metrics.track_tenants(lambda: engines.runtime.standings([tenant.name for tenant in directory.tenants()]))
        stores.accounts.directory.watch(engines.tell_standing)
        check = Authenticator(stores.accounts.directory, _failures(config.auth), metrics.auth_failure)
        pins = _pins(config, stores, templates, runtime, live, reports, evictions)
        show_templates(books, host, pins.keeper, templates, metrics, evictions)
        await stack.enter_async_context(pins.keeper.running())
        dry_run = DryRun(engines.served, stores.salts.scope, engines.runtime.preview, templates)
        named = naming(stores.templates.directory, evictions.ending_in)
        console = ConsoleDesk(runtime, engines.lives, config.scheduler, engines.encoders, named)
        app = make_application(
            config.server,
            health=HealthService(engines.unready, metrics.render),
            inference=InferenceService(engines.served, check, stores.salts.scope, limiter.limits, templates, live),
            admin=AdminService(check, stores.accounts, stores.ledger, stores.decisions, desk, dry_run, feed, console),
            templates=TemplateService(check, directory, templates, engines.served, limiter.limits),
            pins=pins,
        )
        yield Daemon(app, data_dir, specs[0].model.name, engines.unready, engines.fleet.settled, feed.close)


def every(*listeners: Callable[_Told, None]) -> Callable[_Told, None]:
    """Tells all of them."""

    def tell(*args: _Told.args, **kwargs: _Told.kwargs) -> None:
        for listener in listeners:
            listener(*args, **kwargs)

    return tell


def _plan(config: Config, data_dir: Path, say: Say) -> tuple[Sequence[EngineSpec], Mapping[ModelName, str]]:
    """Make the private data directory, the demo model where it is wanted, and the list of engines to start."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    data_dir.chmod(0o700)
    _lock(data_dir)
    hardware = detect()
    paths: dict[ModelName, str] = {}
    kind = "cuda" if hardware.cuda_devices else "cpu"
    for model in config.models:
        if model.path == DEMO_MODEL and model.hardware == kind:
            paths[model.name] = str(ensure_demo_model(data_dir, say))
    return plan(config.models, hardware, paths), paths


def _lock(data_dir: Path) -> None:
    """Keep a second daemon out for as long as this process lives. Raises `ConfigError`."""
    try:
        flock(os.open(data_dir / "lock", os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600), LOCK_EX | LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"data_dir: {data_dir} is in use by another Preble") from error


def _pins(
    config: Config,
    stores: Stores,
    templates: TemplateDesk,
    runtime: Runtime,
    live: Callable[[Call], RequestLife],
    reports: Reports,
    evictions: EvictionCounter,
) -> PinService:
    evictions.attach(runtime.residency)
    warmer = Warmer(runtime, templates, stores.salts.scope, live, reports, evictions)
    tenants, share = stores.accounts.directory, config.templates.pinned_ratio
    keeper = Keeper(stores.pins, share, templates, warmer, runtime, tenants, reports)
    stats = StatsDesk(stores.ledger, stores.evictions, templates, keeper, warmer)
    return PinService(warmer, stores.accounts.audit, keeper, stats)


def counting_evictions(log: EvictionLog, metrics: Metrics) -> EvictionCounter:
    """Have templates' evictions counted: where they are remembered, and for Prometheus."""

    def count(version: VersionKey, tenant: TenantName) -> None:
        log.add(version, tenant, time())
        metrics.template_evicted(tenant)

    return EvictionCounter(count)


def show_templates(
    books: Bookkeeper,
    host: DaemonHost,
    keeper: Keeper,
    templates: TemplateDesk,
    metrics: Metrics,
    evictions: EvictionCounter,
) -> None:
    """Have what requests make of templates counted, and told to consoles and Prometheus."""
    metrics.track_pins(keeper.kept)
    shown = LiveTemplates(templates.store.directory, keeper, evictions.whole)
    books.listen(keeper.settled)
    books.listen(shown.settled)
    books.listen(evictions.settled)
    host.show_templates(shown.rows)


def _failures(config: AuthConfig) -> FailureLimiter:
    return FailureLimiter(
        per_minute=config.failures_per_minute, at_once=config.failures_at_once, addresses_kept=config.addresses_kept
    )


async def budgeted(config: Config, directory: Directory, ledger: Ledger) -> Limiter:
    """A limiter that knows what was spent of the budgets before."""
    limiter, now_s = Limiter(directory, config.limits), time()
    for limit, period in ((Limit.DAY, day_at(now_s)), (Limit.MONTH, month_at(now_s))):
        for tenant, key_id, tokens in await ledger.spent(period.start_s):
            limiter.remember(limit, tenant, key_id, tokens, now_s)
    return limiter


# --- engines, and the machine that decides for them ---


class Engines:
    """The fleet, the machine's host, and one encoder per model, wired to each other."""

    def __init__(
        self,
        config: Config,
        specs: Sequence[EngineSpec],
        paths: Mapping[ModelName, str],
        time_models: TimeModels,
        say: Say,
        on_step_s: Callable[[float], None],
        record: Record,
    ) -> None:
        self._config = config
        self._say = say
        self._time_models = time_models
        self._devices = {spec.gpu: spec.device for spec in specs}
        self.runtime = Runtime(Machine(config.scheduler), on_step_s=on_step_s, record=record)
        self.fleet = Fleet(config, specs, self._post, self._running, say, self._known_time)
        self.lives = Lives()
        self._tokenisers: dict[ModelName, PromptEncoder] = {}
        self.served: dict[str, ServedModel] = {}
        for spec in specs:
            if spec.model.name not in self.served:
                self._serve(spec, paths)

    def _serve(self, spec: EngineSpec, paths: Mapping[ModelName, str]) -> None:
        name = spec.model.name
        tokeniser = self._tokenisers[name] = PromptEncoder.load(Path(paths.get(name, spec.model.path)))
        live = self._config.live
        kept = KeptPrompts(live.kept_prompts_mib << 20) if live.keep_prompts else None
        encoder = ModelEncoder(
            name,
            spec.model.block_size,
            tokeniser,
            engine=lambda: self.fleet.client(self._ready_gpu(name)),
            max_model_len=lambda: self._max_model_len(name),
            kept=kept,
        )
        self.served[name] = ServedModel(name, int(time()), encoder, lambda: self._max_model_len(name))

    def encoders(self) -> Mapping[ModelName, ModelEncoder]:
        """Of the models served."""
        return {model.name: model.encoder for model in self.served.values()}

    def tell_standing(self, tenant: Tenant) -> None:
        """A tenant is new, or something about it has changed."""
        is_batch = tenant.settings.priority == "batch"
        self._post(TenantStands(tenant=tenant.name, weight=tenant.settings.weight, is_batch=is_batch))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the engines; at the end let cut-off requests be settled, then end the engines."""
        await self.fleet.start()
        try:
            async with alongside(self._remember_times_often()):
                yield
        finally:
            await self._remember_times()
            if self.runtime.spawned:
                await wait(self.runtime.spawned, timeout=_SEE_OUT_S)
            await self.fleet.stop()
            for tokeniser in self._tokenisers.values():
                tokeniser.close()

    def _known_time(self, spec: EngineSpec) -> TimeModel | None:
        return self._time_models.find(spec.model.name, spec.device)

    async def _remember_times_often(self) -> None:
        while True:
            await sleep(_REMEMBER_S)
            await self._remember_times()

    async def _remember_times(self) -> None:
        """Of equal engines, what the one has taught of which most was seen."""
        most: dict[tuple[ModelName, str], EngineView] = {}
        for view in sorted(self.runtime.views(), key=_observations):
            if _observations(view) >= _ENOUGH_OBSERVATIONS:
                most[view.model, self._devices[view.gpu]] = view
        for (model, device), view in most.items():
            if view.time_model is not None and view.time_model != self._time_models.find(model, device):
                await self._time_models.save(model, device, view.time_model, _observations(view), time())

    def live(self, call: Call, limiter: Limiter, books: Bookkeeper) -> RequestLife:
        """Begin a request's life."""
        life = RequestLife(
            call,
            runtime=self.runtime,
            limiter=limiter,
            door=self.fleet.client,
            settle=self.lives.settled(books.settle),
            timeout_s=self._config.server.request_timeout_s,
        )
        return self.lives.begin(call, life)

    def returns(self) -> list[tuple[str, ReturnCounts]]:
        """What became of sessions that called tools, by model."""
        return [(name, self.runtime.returns(ModelName(name))) for name in self.served]

    def unready(self) -> str | None:
        """Name a model that no engine serves; None if there is none."""
        for name in self.served:
            if not self.fleet.ready(ModelName(name)):
                states = ", ".join(f"{row.gpu} is {row.state}" for row in self.fleet.rows if row.model == name)
                return f"No engine serves {name}: {states}."
        return None

    def _post(self, event: Event) -> None:
        self.runtime.post(event)
        if isinstance(event, EngineUp):
            self.runtime.spawn(self._verify(event.model, event.gpu))

    async def _verify(self, model: ModelName, gpu: GpuId) -> None:
        """Render chats here, rather than ask an engine each time, once it is shown to come out the same."""
        try:
            difference = await self._tokenisers[model].verify(self.fleet.client(gpu).render_chat)
        except EngineError:
            return  # it ended meanwhile; the next one will be asked
        self.served[model].encoder.renders_here = difference is None
        if difference is not None:
            _log.warning("chats_rendered_by_engine", model=model, difference=difference)
            self._say(f"{model}: prompts are rendered by its engines, which costs a round trip: {difference}")

    def _running(self, gpu: GpuId) -> int:
        return next((view.running for view in self.runtime.views() if view.gpu == gpu), 0)

    def _ready_gpu(self, model: ModelName) -> GpuId:
        ready = self.fleet.ready(model)
        if not ready:
            raise Unavailable("No engine serves this model at the moment.", retry_after_s=1.0)
        return ready[0]

    def _max_model_len(self, model: ModelName) -> int | None:
        return next((row.limits.max_model_len for row in self.fleet.rows if row.model == model and row.limits), None)


def _observations(view: EngineView) -> int:
    return view.time_error.observations if view.time_error else 0

"""Hosts the daemon's own `Machine` over modelled engines, on a virtual clock.

Time goes from instant to instant. At one instant everything that happens then is done, and what it leads to, before
engines begin their next steps; so an answer's end, the dispatch it makes room for and that request's start in the next
step need no time, and nothing depends on the order of engines. Nothing takes time on the way, unless `dispatch_delay_s`
says that engines hear so much later of what they are to do.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from preble.daemon.config import SchedulerConfig
from preble.daemon.flow import effects
from preble.daemon.flow.effects import Abort, Dispatch, Ended, Placed
from preble.daemon.flow.events import (
    Arrived,
    ClientGone,
    DrainChanged,
    EngineDown,
    EngineUp,
    Event,
    Failed,
    Finished,
    FirstToken,
    KvReported,
    TenantStands,
)
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.prefixes import Listing, TemplateOf
from preble.daemon.ids import AttemptId, BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.attempt import EngineView
from preble.daemon.sched.types import Prompt, RequestSpec
from preble.daemon.sim.agenda import Agenda, to_ps
from preble.daemon.sim.engine import ModelledEngine
from preble.daemon.sim.fits import Fit
from preble.daemon.sim.live import Live
from preble.daemon.sim.prompts import BlockKeys
from preble.daemon.sim.station import Station
from preble.daemon.sim.steps import Job
from preble.daemon.sim.types import Load, Outcome, Piece, SimRequest
from preble.daemon.sim.watching import Look, Watcher
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import PrefixPage

MODEL = ModelName("simulated")

_PROGRESS_REPORTS = 200


class World:
    """One simulation. Arrange faults if there are to be any, then `run` it once; `loads` has the samples."""

    def __init__(
        self,
        *,
        fit: Fit | Sequence[Fit],
        gpus: int,
        config: SchedulerConfig,
        dispatch_delay_s: float = 0.0,
        sample_interval_s: float | None = None,
        progress: Callable[[float], None] | None = None,
        n_expected: int | None = None,
        one_by_one: bool = False,
        weights: Mapping[TenantName, float] | None = None,
        batch: Collection[TenantName] = (),
        watcher: Watcher | None = None,
    ) -> None:
        """`fit` is one for all GPUs or one for each. `progress` is told the fraction done of `n_expected` requests.

        `weights` are of tenants that do not have 1, `batch` has priority batch. With a `watcher` no outcomes are kept.
        """
        fits = [fit] * gpus if isinstance(fit, Fit) else list(fit)
        if gpus < 1 or len(fits) != gpus:
            raise ValueError(f"{gpus} GPUs and {len(fits)} calibrations")
        if len({each.limits.block_size for each in fits}) > 1:
            raise ValueError("all engines of a model must have the same block size")
        self.loads: list[Load] = []
        self._stations = [Station(i, GpuId(f"gpu{i:0{len(str(gpus - 1))}}"), each) for i, each in enumerate(fits)]
        self._by_gpu = {station.gpu: station for station in self._stations}
        self._block_size = fits[0].limits.block_size
        self._keys = BlockKeys(self._block_size, MODEL)
        self._max_model_len = min(each.limits.max_model_len for each in fits)
        self._machine = Machine(config)
        self._delay_ps = to_ps(dispatch_delay_s)
        self._sample_ps = None if sample_interval_s is None else max(1, to_ps(sample_interval_s))
        self._weights = weights or {}
        self._batch = frozenset(batch)
        self._watcher = watcher
        self._progress = progress
        self._n_expected = n_expected
        self._one_by_one = one_by_one
        self._agenda = Agenda()
        self._arrivals: Iterator[SimRequest] = iter(())
        self._next: SimRequest | None = None
        self._live: dict[RequestId, Live] = {}
        self._by_attempt: dict[AttemptId, Live] = {}
        self._touched: dict[Station, None] = {}
        """Whose engines may have something to begin at the end of this instant."""
        self._outcomes: list[Outcome] = []

    # --- what may be arranged before the run ---

    def fail(self, gpu: GpuId, at_s: float, back_after_s: float | None = None) -> None:
        """Let an engine die, and start anew with an empty cache after a while, or never."""
        station = self._by_gpu[gpu]
        self._agenda.put(to_ps(at_s), partial(self._down, station))
        if back_after_s is not None:
            self._agenda.put(to_ps(at_s + back_after_s), partial(self._up, station))

    def drain(self, gpu: GpuId, at_s: float, *, draining: bool = True) -> None:
        """Let an operator drain a GPU, or put it back to work."""
        self._agenda.put(to_ps(at_s), partial(self._tell, DrainChanged(gpu=self._by_gpu[gpu].gpu, draining=draining)))

    def leave(self, request_id: RequestId, at_s: float) -> None:
        """Let a client go away; without effect if its request has not come or has ended by then."""
        self._agenda.put(to_ps(at_s), partial(self._tell, ClientGone(request_id=request_id)))

    # --- what may be looked at meanwhile ---

    def look(self) -> list[Look]:
        """Every GPU, by number."""
        views = {view.gpu: view for view in self._machine.views(self._agenda.now_s)}
        return [Look(views[each.gpu], self._load(each, views[each.gpu]), each.epoch) for each in self._stations]

    def standings(self, tenants: Collection[TenantName]) -> dict[TenantName, Standing]:
        """How these tenants stand towards each other."""
        return self._machine.standings(tenants)

    def block_keys(self, prompt: Sequence[Piece]) -> tuple[BlockKey, ...]:
        """Of a prompt's full blocks."""
        return self._keys.keys(prompt)

    def prefixes(self, parent: str | None, limit: int, named: TemplateOf) -> PrefixPage:
        """What comes behind a stretch of the prefix index, or its beginnings. Raises `NotFound`."""
        return self._machine.prefixes(MODEL, Listing(parent=parent, limit=limit, template_of=named))

    def cached_blocks(self, keys: Sequence[BlockKey]) -> dict[GpuId, int]:
        """Of a prompt's blocks, what each GPU has or will have computed."""
        return self._machine.cached_blocks(MODEL, keys)

    # --- the clock ---

    def run(self, requests: Iterable[SimRequest]) -> list[Outcome]:
        """Play all requests, which come in the order of their `at_s`, to the end. Outcomes are in the order of ends.

        Requests that no engine is left for at the end are given up by their clients then.
        """
        for tenant in sorted(self._weights.keys() | self._batch):
            weight = self._weights.get(tenant, 1.0)
            self._tell(TenantStands(tenant=tenant, weight=weight, is_batch=tenant in self._batch))
        for station in self._stations:
            self._up(station)
        if self._sample_ps is not None:
            self._agenda.put(0, self._sample)
        if self._watcher is not None:
            self._agenda.put(0, partial(self._pass, self._watcher))
        self._arrivals = iter(requests)
        self._next = next(self._arrivals, None)
        while (next_ps := self._next_ps()) is not None:
            self._agenda.set_clock(next_ps)
            self._do_instant()
        for request_id in list(self._live):
            self._tell(ClientGone(request_id=request_id))
        if self._progress is not None:
            self._progress(1.0)
        return self._outcomes

    def _next_ps(self) -> int | None:
        next_ps = self._agenda.next_ps
        if self._next is None:
            return next_ps
        arrival_ps = to_ps(self._next.at_s)
        if arrival_ps < self._agenda.now_ps:
            raise ValueError(f"{self._next.request_id}: requests must come in the order of at_s")
        return arrival_ps if next_ps is None else min(arrival_ps, next_ps)

    def _do_instant(self) -> None:
        now_ps = self._agenda.now_ps
        while self._next is not None and to_ps(self._next.at_s) == now_ps:
            request, self._next = self._next, next(self._arrivals, None)
            self._arrive(request, request.session, returned=False)
        while (what := self._agenda.take_due()) is not None:
            what()
        for station in self._touched:
            if station.engine is not None:
                station.engine.start(now_ps)
            self._arrange(station)
        self._touched.clear()

    def _arrange(self, station: Station) -> None:
        """Come back when the engine has news, and only then."""
        engine = station.engine
        ends_ps = engine.ends_ps if engine is not None else None
        if station.due is not None:
            if station.due[0] == ends_ps:
                return
            self._agenda.drop(station.due[1])
            station.due = None
        if engine is not None and ends_ps is not None:
            number = self._agenda.put(ends_ps, partial(self._settle, station, engine), station.number)
            station.due = ends_ps, number

    # --- engines ---

    def _up(self, station: Station) -> None:
        if station.engine is not None:
            return  # it died once more while it was down, so it came back before
        station.epoch += 1
        station.engine = ModelledEngine(station.fit, one_by_one=self._one_by_one)
        limits, time_model = station.fit.limits, station.fit.time_model()
        up = EngineUp(gpu=station.gpu, model=MODEL, epoch=station.epoch, limits=limits, time_model=time_model)
        self._tell(up)

    def _down(self, station: Station) -> None:
        if station.engine is None:
            return
        jobs, station.engine = station.engine.stop(self._agenda.now_ps), None
        self._arrange(station)
        self._tell(EngineDown(gpu=station.gpu))
        for job in jobs:
            self._fail(job)

    def _fail(self, job: Job) -> None:
        live = self._by_attempt.pop(job.attempt_id)
        self._tell(Failed(attempt_id=job.attempt_id, retry=live.first_token_ps is None))

    def _settle(self, station: Station, engine: ModelledEngine) -> None:
        station.due = None
        news = engine.settle(self._agenda.now_ps)
        self._touched[station] = None
        if news.kv_changes:
            self._tell(KvReported(gpu=station.gpu, epoch=station.epoch, changes=news.kv_changes))
        for attempt_id in news.first_tokens:
            self._by_attempt[attempt_id].first_token_ps = self._agenda.now_ps
            self._tell(FirstToken(attempt_id=attempt_id))
        for job in news.ended:
            calls_tools = self._by_attempt[job.attempt_id].request.calls_tools
            self._tell(Finished(attempt_id=job.attempt_id, output_tokens=job.produced, calls_tools=calls_tools))

    def _sample(self) -> None:
        assert self._sample_ps is not None
        self.loads += [look.load for look in self.look()]
        if self._next_ps() is not None:
            self._agenda.put(self._agenda.now_ps + self._sample_ps, self._sample)

    def _load(self, station: Station, view: EngineView) -> Load:
        engine, n_blocks = station.engine, station.fit.limits.kv_blocks
        return Load(
            at_s=self._agenda.now_s,
            gpu=station.gpu,
            waiting=view.waiting,
            queued=engine.n_waiting if engine else 0,
            running=engine.n_running if engine else 0,
            kv_held_ratio=engine.held_blocks(self._agenda.now_ps) / n_blocks if engine else 0.0,
            kv_cached_ratio=engine.kv.n_cached / n_blocks if engine else 0.0,
        )

    def _pass(self, watcher: Watcher) -> None:
        watcher.passed(self._agenda.now_s)
        if self._next_ps() is not None:
            self._agenda.put(self._agenda.now_ps + to_ps(watcher.interval_s), partial(self._pass, watcher))

    # --- requests ---

    def _arrive(self, request: SimRequest, session: Iterator[SimRequest] | None, *, returned: bool) -> None:
        n_prompt = request.prompt_tokens
        n_output = min(request.max_output_tokens, self._max_model_len - n_prompt)
        live = Live(
            request=request,
            session=session,
            returned=returned,
            arrived_ps=self._agenda.now_ps,
            output_tokens=max(1, min(request.output_tokens, n_output)),
        )
        assert request.request_id not in self._live, f"{request.request_id} is live"
        self._live[request.request_id] = live
        if n_prompt < 1 or n_output < 1:
            self._end(live, effects.Outcome.REFUSED)  # the daemon's routes refuse it before the machine hears of it
            return
        live.keys = self._keys.keys((*request.prompt, Piece(request.output_content, live.output_tokens)))
        spec = RequestSpec(
            request_id=request.request_id,
            model=MODEL,
            tenant=request.tenant,
            prompt=Prompt(n_tokens=n_prompt, block_keys=live.keys[: n_prompt // self._block_size]),
            max_output_tokens=n_output,
        )
        self._tell(Arrived(request=spec))

    def _tell(self, event: Event) -> None:
        following = self._machine.step(event, self._agenda.now_s)
        if self._watcher is not None:
            self._watcher.stepped(self._agenda.now_s, event, following)
        for effect in following:
            match effect:
                case Placed(decision=decision):
                    live = self._live[decision.request_id]
                    live.gpu, live.predicted_tokens = decision.gpu, decision.cached_tokens
                case Dispatch():
                    self._dispatch(effect)
                case Abort(gpu=gpu, attempt_id=attempt_id):
                    self._after_delay(partial(self._abort, self._by_gpu[gpu], attempt_id))
                case Ended(request_id=request_id, outcome=outcome):
                    self._end(self._live[request_id], outcome)
                case _:  # why a request was refused makes no difference here
                    pass

    def _after_delay(self, what: Callable[[], None]) -> None:
        if self._delay_ps:
            self._agenda.put(self._agenda.now_ps + self._delay_ps, what)
        else:
            what()

    def _dispatch(self, effect: Dispatch) -> None:
        live = self._live[effect.request_id]
        live.job = Job(
            attempt_id=effect.attempt_id,
            keys=live.keys,
            prompt_tokens=live.request.prompt_tokens,
            output_tokens=live.output_tokens,
            priority=effect.priority,
        )
        live.dispatched_ps, live.first_token_ps = self._agenda.now_ps, None
        self._by_attempt[effect.attempt_id] = live
        station = self._by_gpu[effect.gpu]
        self._after_delay(partial(self._submit, station, station.epoch, live.job))

    def _submit(self, station: Station, epoch: int, job: Job) -> None:
        if station.engine is None or station.epoch != epoch:
            self._fail(job)
            return
        station.engine.submit(job, self._agenda.now_ps)
        self._touched[station] = None

    def _abort(self, station: Station, attempt_id: AttemptId) -> None:
        if station.engine is not None:
            station.engine.abort(attempt_id, self._agenda.now_ps)
            self._arrange(station)

    def _end(self, live: Live, outcome: effects.Outcome) -> None:
        request, job = live.request, live.job
        complete = outcome is effects.Outcome.FINISHED
        del self._live[request.request_id]
        if job is not None:
            self._by_attempt.pop(job.attempt_id, None)
        result = live.outcome(self._agenda.now_ps, complete=complete)
        if self._watcher is not None:
            self._watcher.ended(result, outcome.value)
        else:
            self._outcomes.append(result)
        if live.session is not None and complete:
            self._go_on(live.session, request)
        self._report_progress()

    def _go_on(self, session: Iterator[SimRequest], before: SimRequest) -> None:
        """Let the client of a request that was answered send its next."""
        request = next(session, None)
        if request is not None:
            arrive = partial(self._arrive, request, session, returned=before.calls_tools)
            self._agenda.put(self._agenda.now_ps + to_ps(request.at_s), arrive)

    def _report_progress(self) -> None:
        if self._progress is not None and self._n_expected:
            n_done = len(self._outcomes)
            if n_done % max(1, self._n_expected // _PROGRESS_REPORTS) == 0:
                self._progress(min(1.0, n_done / self._n_expected))


def simulate(
    requests: Iterable[SimRequest],
    *,
    fit: Fit | Sequence[Fit],
    gpus: int,
    config: SchedulerConfig,
    dispatch_delay_s: float = 0.0,
    progress: Callable[[float], None] | None = None,
    n_expected: int | None = None,
) -> list[Outcome]:
    """Play `requests`, which come in the order of their `at_s`, on `gpus` engines of the same model."""
    world = World(
        fit=fit,
        gpus=gpus,
        config=config,
        dispatch_delay_s=dispatch_delay_s,
        progress=progress,
        n_expected=n_expected,
    )
    return world.run(requests)

"""The only owner of the machine in the daemon: gives it events with the time, and does what it asks for."""

from asyncio import Future, Task, get_running_loop, sleep
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from time import monotonic, perf_counter
from typing import Any

from preble.daemon.background import alongside, tell_failure
from preble.daemon.errors import ApiError, EngineFailed, InvalidRequest, Unavailable
from preble.daemon.flow.effects import Abort, Dispatch, Effect, Ended, Outcome, Placed, Refusal, Refuse
from preble.daemon.flow.events import Arrived, Event
from preble.daemon.flow.foresight import Foresight
from preble.daemon.flow.garbage import collect_early
from preble.daemon.flow.machine import Machine
from preble.daemon.flow.prefixes import Listing
from preble.daemon.flow.recording import Record, no_record
from preble.daemon.ids import BlockKey, GpuId, ModelName, RequestId, TenantName
from preble.daemon.sched.attempt import EngineView
from preble.daemon.sched.browse import Stretch
from preble.daemon.sched.returns import ReturnCounts
from preble.daemon.sched.types import Decision, RequestSpec, TimeModel
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.live import PrefixPage

_RETRY_SOON_S = 1.0
_LEAST_SLEEP_S = 0.01
"""However short a step of the windows is."""


class Cancelled(ApiError):
    """The client left before the request had finished."""

    status = 499
    type = "client_closed_request"
    default_code = "client_closed_request"


class Ticket:
    """One request's line to the machine, from submission to its end."""

    def __init__(self, spec: RequestSpec, on_abort: Callable[[Abort], None]) -> None:
        self.spec = spec
        self.on_abort = on_abort
        self.decision: Decision | None = None
        """The latest one."""
        self.attempts = 0
        self.gpu_ms = 0.0
        """GPU time of all its attempts, once it has ended."""
        self._next: Future[Dispatch] = get_running_loop().create_future()

    @property
    def waits(self) -> bool:
        """Whether the machine has yet to say what becomes of it."""
        return not self._next.done()

    async def dispatched(self) -> Dispatch:
        """Wait until the request may be sent to an engine. Raises the `ApiError` that ends it instead."""
        dispatch = await self._next
        self._next = get_running_loop().create_future()
        return dispatch

    def dispatch(self, effect: Dispatch) -> None:
        """Let it go."""
        self._next.set_result(effect)

    def end(self, error: ApiError) -> None:
        """It will not be dispatched (again)."""
        if not self._next.done():
            self._next.set_exception(error)
            self._next.exception()  # nobody may be waiting: not an unhandled error


class Runtime:
    """Hosts one machine on the running event loop. Posting is synchronous: effects are under way when it returns.

    `on_step_s` is told how long each placement took; `record` gets every step.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        on_step_s: Callable[[float], None],
        clock: Callable[[], float] = monotonic,
        record: Record = no_record,
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._record = record
        self._on_step_s = on_step_s
        self._tickets: dict[RequestId, Ticket] = {}
        self._tasks: set[Task[None]] = set()

    def post(self, event: Event) -> None:
        """Tell the machine what happened."""
        now_s = self._clock()
        effects = self._machine.step(event, now_s)
        self._record(now_s, event, effects)
        for effect in effects:
            self._perform(effect)

    def submit(self, spec: RequestSpec, on_abort: Callable[[Abort], None]) -> Ticket:
        """Give the machine a request. `on_abort` is called when its running attempt is to be aborted."""
        ticket = self._tickets[spec.request_id] = Ticket(spec, on_abort)
        started_s = perf_counter()
        self.post(Arrived(request=spec))
        self._on_step_s(perf_counter() - started_s)
        return ticket

    @asynccontextmanager
    async def upkeep(self) -> AsyncIterator[None]:
        """Meanwhile windows pass, and cycles are looked for, between events, so that requests seldom wait for that."""
        async with alongside(self._keep_up()):
            yield

    async def _keep_up(self) -> None:
        step_s = self._machine.window_step_s
        while True:
            self._machine.age(self._clock())
            collect_early()
            await sleep(max(_LEAST_SLEEP_S, step_s - self._clock() % step_s))  # until the next one

    def preview(self, spec: RequestSpec) -> Decision:
        """What the machine would decide about a request now. Raises the `ApiError` that would end it instead."""
        foreseen = self._machine.preview(spec, self._clock())
        if isinstance(foreseen, Refusal):
            raise _refusal(foreseen)
        return foreseen

    def placed_at(self, request_id: RequestId) -> GpuId | None:
        """Where a live request waits or runs; None if it is still on its way here, or has ended."""
        ticket = self._tickets.get(request_id)
        return ticket.decision.gpu if ticket is not None and ticket.decision is not None else None

    def has_begun(self, request_id: RequestId) -> bool:
        """Whether a live request has been sent to an engine."""
        ticket = self._tickets.get(request_id)
        return ticket is not None and ticket.attempts > 0

    def residency(self, model: ModelName, keys: Sequence[BlockKey]) -> dict[GpuId, int]:
        """Of a prompt's leading blocks, how many each GPU has reported to cache."""
        return self._machine.residency(model, keys)

    def spare_blocks(self, model: ModelName, keys: Sequence[BlockKey], gpu: GpuId, most: int) -> int:
        """About how many blocks a GPU can store before it evicts any of a prompt's; `most`, if they are more."""
        return self._machine.spare_blocks(model, keys, gpu, most)

    def time_model(self, gpu: GpuId) -> TimeModel | None:
        """How long a GPU takes, as far as that is known."""
        return self._machine.time_model(gpu)

    def views(self) -> tuple[EngineView, ...]:
        """What every engine is doing now."""
        return self._machine.views(self._clock())

    def foresee(self, gpu: GpuId) -> Foresight | None:
        """What would become of what is at a GPU without it; None if it was never up."""
        return self._machine.foresee(gpu, self._clock())

    def prefixes(self, model: ModelName, wanted: Listing) -> PrefixPage:
        """A page of the model's prefix index. Raises `NotFound` and `InvalidRequest`."""
        return self._machine.prefixes(model, wanted)

    def stretch(self, prefix: str) -> Stretch | None:
        """A stretch of an index that was listed; None if it never was, has been split or joined, or is forgotten."""
        return self._machine.stretch(prefix)

    def standings(self, tenants: Collection[TenantName]) -> dict[TenantName, Standing]:
        """How these tenants stand towards each other; those that never asked for anything may be missing."""
        return self._machine.standings(tenants)

    def returns(self, model: ModelName) -> ReturnCounts:
        """What became of the model's sessions that called tools."""
        return self._machine.returns(model)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work that outlives the request it belongs to; `drain` waits for it."""
        task = get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    @property
    def spawned(self) -> frozenset[Task[None]]:
        """Work under way that nobody awaits."""
        return frozenset(self._tasks)

    @property
    def live_requests(self) -> int:
        """Requests that have arrived and not ended."""
        return self._machine.live_requests

    def _reap(self, task: Task[None]) -> None:
        self._tasks.discard(task)
        tell_failure(task)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Placed(decision=decision):
                ticket = self._tickets[decision.request_id]
                ticket.decision = decision
            case Dispatch():
                ticket = self._tickets[effect.request_id]
                ticket.attempts += 1
                ticket.dispatch(effect)
            case Abort():
                self._tickets[effect.request_id].on_abort(effect)
            case Refuse(request_id=request_id, why=why):
                self._tickets[request_id].end(_refusal(why))
            case Ended(request_id=request_id, outcome=outcome, gpu_ms=gpu_ms):
                ticket = self._tickets.pop(request_id)
                ticket.gpu_ms = gpu_ms
                if outcome is Outcome.CANCELLED:
                    ticket.end(Cancelled())


def _refusal(why: Refusal) -> ApiError:
    match why:
        case Refusal.NO_ENGINE:
            return Unavailable("No engine serves this model at the moment.", retry_after_s=_RETRY_SOON_S)
        case Refusal.QUEUE_FULL:
            message = "Too many requests are waiting for this model."
            return Unavailable(message, code="queue_full", retry_after_s=_RETRY_SOON_S)
        case Refusal.TOO_LARGE:
            message = "The prompt needs more KV cache than any engine of this model has."
            return InvalidRequest(message, code="context_length_exceeded")
        case Refusal.ATTEMPTS_EXHAUSTED:
            return EngineFailed("Every engine that tried this request failed.")

"""A request's whole way, in order: encode, wait for the machine's word, run, relay, settle. Decides nothing.

However a request ends (answered, refused, cut off by its client, by time or by its engine), its attempt is reported
to the machine once and its usage is recorded once.
"""

from asyncio import Timeout, TimerHandle, get_running_loop, sleep, timeout
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from time import monotonic, time

import msgspec
import structlog

from preble.daemon.errors import ApiError, EngineError, EngineFailed, RateLimited, TimedOut, Unavailable
from preble.daemon.flow.allowance import Allowance
from preble.daemon.flow.call import Answer, Call, Settled
from preble.daemon.flow.door import EngineDoor, Upstream, engine_refusal
from preble.daemon.flow.effects import Abort, Dispatch
from preble.daemon.flow.encode import encoded
from preble.daemon.flow.events import ClientGone, Failed, Finished, FirstToken
from preble.daemon.flow.runtime import Cancelled, Runtime, Ticket
from preble.daemon.flow.sse import DONE, SseTap, calls_tools, usage_of, without_cached_tokens
from preble.daemon.ids import AttemptId, GpuId
from preble.daemon.sched.types import RequestSpec
from preble.daemon.tenancy.ledger import Status
from preble.daemon.tenancy.limits import Limiter, Tokens

_ABORT_INTERVAL_S = 0.2  # an abort can overtake the request it is for, so it is repeated until the engine is done
_ABORT_PATIENCE_S = 5.0  # then the connection is cut, which engines take as an abort too, but without telling usage
_log = structlog.get_logger(__name__)


class RequestLife:
    """One request, from the moment it is known to be well-formed."""

    def __init__(
        self,
        call: Call,
        *,
        runtime: Runtime,
        limiter: Limiter,
        door: Callable[[GpuId], EngineDoor],
        settle: Callable[[Settled], None],
        timeout_s: float,
    ) -> None:
        self._call = call
        self._runtime = runtime
        self._door = door
        self._record = settle
        self._received_at_s = time()
        self._timer: TimerHandle = get_running_loop().call_later(timeout_s, self._time_out)
        self._stack = AsyncExitStack()
        self._tap = self._new_tap()
        self._body = call.body
        self._allowance = Allowance(limiter, call.tenant, call.key_id)
        self._spec: RequestSpec | None = None
        self._ticket: Ticket | None = None
        self._attempt: AttemptId | None = None
        """The attempt that is running in an engine, until its end has been reported."""
        self._upstream: Upstream | None = None
        self._reaching: Timeout | None = None
        """Set until there is an answer to hand out: an engine sends nothing at all before it has one."""
        self._why_abandoned: ApiError | None = None
        self._queue_ms: float | None = None
        self._ttft_ms: float | None = None
        self._settled = False

    # --- the way ---

    async def answer(self) -> Answer:
        """Take the request as far as its first output. Raises the `ApiError` that ends it instead.

        Not to be cancelled: a client that leaves is reported by `abandon`, and then this raises `Cancelled`.
        """
        try:
            self._allowance.enter(len(self._body))
            self._spec = await encoded(self._call.encode)
            if self._why_abandoned is not None:
                raise self._why_abandoned
            self._spec = self._charged(self._spec)
            self._ticket = self._runtime.submit(self._spec, self._on_abort)
            return await self._run()
        except ApiError as error:
            await self._stack.aclose()
            ended_by = self._why_abandoned or error
            self._settle(ended_by)
            raise ended_by from error
        except Exception:
            await self._stack.aclose()
            self._report_failed(retry=False)
            self.abandon(ApiError("Preble failed unexpectedly."))
            self._settle(self._why_abandoned)
            raise

    def _charged(self, spec: RequestSpec) -> RequestSpec:
        """What the limits let it be. Raises the `ApiError` that ends it instead."""
        charged = self._allowance.charge(spec, asked=self._call.asks_length)
        if charged.max_output_tokens < spec.max_output_tokens:
            self._body = self._call.shortened(charged.max_output_tokens)
        return charged

    async def _dispatched(self) -> Dispatch:
        """Wait for an engine, if the request may."""
        assert self._ticket is not None
        if self._ticket.waits:
            try:
                self._allowance.wait(again=self._ticket.attempts > 0)
            except RateLimited as refusal:
                self.abandon(refusal)
        try:
            return await self._ticket.dispatched()
        finally:
            self._allowance.start()

    async def _run(self) -> Answer:
        """Try engines until one answers."""
        while True:
            dispatch = await self._dispatched()
            self._attempt = dispatch.attempt_id
            self._queue_ms = self._elapsed_ms()
            try:
                async with timeout(None) as self._reaching:
                    return await self._try(dispatch)
            except (EngineError, TimeoutError) as error:
                _log.warning("attempt_failed", gpu=dispatch.gpu, error=str(error) or "does not obey an abort")
                await self._stack.aclose()
                self._tap = self._new_tap()
                self._report_failed(retry=True)
            finally:
                self._reaching = None

    def _new_tap(self) -> SseTap:
        return SseTap(hide_usage=self._call.hide_usage, hide_cached_tokens=self._call.hide_cache)

    async def _try(self, dispatch: Dispatch) -> Answer:
        call = self._call
        headers = {"x-request-id": call.request_id, "x-vllm-priority": str(dispatch.priority)}
        stream = self._door(dispatch.gpu).stream(call.path, self._body, headers)
        self._upstream = upstream = await self._stack.enter_async_context(stream)
        if upstream.status >= 500:
            raise EngineError(f"the engine answered with status {upstream.status}")
        if upstream.status != 200:
            refusal = engine_refusal(await _read(upstream))
            self._report_failed(retry=False)
            raise refusal
        return await (self._first_event(upstream) if call.stream else self._whole_body(upstream))

    async def _whole_body(self, upstream: Upstream) -> Answer:
        body = await _read(upstream)
        usage = usage_of(body)
        if usage is None:
            raise EngineError("the engine's answer has no usage")
        self._tap.usage = usage
        self._tap.calls_tools = calls_tools(body)
        await self._finish()
        if self._why_abandoned is not None:
            raise self._why_abandoned
        self._settle(None)
        return self._answer(upstream, _once(without_cached_tokens(body) if self._call.hide_cache else body))

    async def _first_event(self, upstream: Upstream) -> Answer:
        first = await self._next_events()
        if not first or self._tap.error is not None:
            raise EngineError(f"the engine ended the stream before any output: {self._tap.error!r}")
        if self._why_abandoned is not None:
            await self.see_out()
            raise self._why_abandoned
        self._ttft_ms = self._elapsed_ms()
        if self._attempt is not None:
            self._runtime.post(FirstToken(attempt_id=self._attempt))
        return self._answer(upstream, self._relay(first))

    async def _relay(self, first: bytes) -> AsyncIterator[bytes]:
        """The rest of a stream. If the client leaves, what remains of the request goes on without it."""
        try:
            yield first
            async for events in self._rest():
                yield events
        finally:
            if not self._settled:
                self.abandon(Cancelled())
                self._runtime.spawn(self.see_out())

    async def _rest(self) -> AsyncIterator[bytes]:
        """Events until the engine is done, then what the daemon has to add; settles the request."""
        try:
            while events := await self._next_events():
                if self._why_abandoned is None:
                    yield events
            error = self._why_abandoned or _stream_fault(self._tap)
        except EngineError as broken:
            error = self._why_abandoned or EngineFailed(f"The engine failed while it was answering: {broken}")
        await self._finish()
        self._settle(error)
        yield DONE if error is None else b"data: " + msgspec.json.encode({"error": error.body()}) + b"\n\n"

    async def _next_events(self) -> bytes:
        """The next whole events for the client; empty at the end."""
        assert self._upstream is not None
        async for chunk in self._upstream.chunks:
            if events := self._tap.feed(chunk):
                self._allowance.produced(self._tap.n_events)
                return events
        return b""

    async def _finish(self) -> None:
        """The engine is done with the running attempt."""
        await self._stack.aclose()
        if self._attempt is None:
            return
        if self._tap.usage is None:
            self._report_failed(retry=False)
        else:
            finished = Finished(
                attempt_id=self._attempt,
                output_tokens=self._tap.usage.completion_tokens,
                calls_tools=self._tap.calls_tools,
            )
            self._attempt = None
            self._runtime.post(finished)

    def _report_failed(self, *, retry: bool) -> None:
        if self._attempt is not None:
            attempt, self._attempt = self._attempt, None
            self._runtime.post(Failed(attempt_id=attempt, retry=retry))

    # --- leaving early ---

    def abandon(self, why: ApiError) -> None:
        """Nobody wants the answer any more. A running attempt is aborted, and ends with its usage told."""
        if self._settled or self._why_abandoned is not None:
            return
        self._why_abandoned = why
        self._runtime.post(ClientGone(request_id=self._call.request_id))

    async def see_out(self) -> None:
        """Read an abandoned stream to its end, so that its usage is known."""
        async for _ in self._rest():
            pass

    def _time_out(self) -> None:
        self.abandon(TimedOut())

    def _on_abort(self, effect: Abort) -> None:
        self._why_abandoned = self._why_abandoned or Cancelled("The request was cancelled.")
        self._runtime.spawn(self._abort(effect))

    async def _abort(self, effect: Abort) -> None:
        door = self._door(effect.gpu)
        try:
            async with timeout(_ABORT_PATIENCE_S):
                while self._attempt == effect.attempt_id:
                    await door.abort(self._call.engine_ids)
                    await sleep(_ABORT_INTERVAL_S)
        except (EngineError, TimeoutError):
            if self._reaching is not None:
                self._reaching.reschedule(0)
            else:
                await self._stack.aclose()

    # --- the end ---

    def _settle(self, error: ApiError | None) -> None:
        if self._settled:
            return
        self._settled = True
        self._timer.cancel()
        usage, spec, ticket = self._tap.usage, self._spec, self._ticket
        asked_tokens = usage.prompt_tokens if usage else spec.prompt.n_tokens if spec else 0
        output_tokens = usage.completion_tokens if usage else self._tap.n_events
        settled = Settled(
            call=self._call,
            status=_status(error),
            http_status=error.status if error else 200,
            error=error.message if error else None,
            error_code=error.code if error else None,
            limit=error.limit if isinstance(error, RateLimited) else None,
            received_at_s=self._received_at_s,
            decision=ticket.decision if ticket else None,
            attempts=ticket.attempts if ticket else 0,
            prompt_tokens=asked_tokens if output_tokens else 0,
            cached_tokens=usage.cached_tokens if usage and output_tokens else None,
            output_tokens=output_tokens,
            gpu_ms=ticket.gpu_ms if ticket else 0.0,
            queue_ms=self._queue_ms,
            ttft_ms=self._ttft_ms,
            latency_ms=self._elapsed_ms(),
            block_keys=spec.prompt.block_keys if spec else (),
        )
        cached = 0 if self._call.hide_cache else settled.cached_tokens or 0  # else what is left would tell it
        used = Tokens(prompt=asked_tokens, cached=cached, output=settled.output_tokens)
        self._allowance.give_back(used if settled.attempts else None, refused=settled.status is Status.REFUSED)
        self._record(settled)

    def _answer(self, upstream: Upstream, chunks: AsyncIterator[bytes]) -> Answer:
        assert self._ticket is not None
        decision = self._ticket.decision
        assert decision is not None
        headers = {**self._allowance.headers(), "x-request-id": self._call.request_id}
        if not self._call.hide_cache:  # where a request goes, and why, follows from what is cached
            headers |= {
                "x-preble-gpu": decision.gpu,
                "x-preble-decision": decision.mode.value,
                "x-preble-cached-tokens": str(decision.cached_tokens),
            }
        return Answer(headers=headers, content_type=upstream.headers["content-type"], chunks=chunks)

    def _elapsed_ms(self) -> float:
        return (monotonic() - self._call.received_s) * 1000


def _stream_fault(tap: SseTap) -> ApiError | None:
    if tap.error is not None:
        return EngineFailed(f"The engine failed while it was answering: {tap.error.decode(errors='replace')}")
    if not tap.done:
        return EngineFailed("The engine broke off while it was answering.")
    return None


def _status(error: ApiError | None) -> Status:
    if error is None:
        return Status.FINISHED
    if isinstance(error, Cancelled):
        return Status.CANCELLED
    return Status.REFUSED if isinstance(error, Unavailable | RateLimited) else Status.FAILED


async def _read(upstream: Upstream) -> bytes:
    return b"".join([chunk async for chunk in upstream.chunks])


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body

"""Requests from their arrival to their end, and which of their changes consoles have yet to be told."""

from collections import deque
from collections.abc import Iterator

from preble.daemon.ids import AttemptId, RequestId
from preble.daemon.obs.live.facts import End
from preble.daemon.sched.types import Decision, RequestSpec
from preble.daemon.wire.live import LiveRequest, RequestState
from preble.daemon.wire.moments import iso

_FOLLOWED = 20
"""Requests that consoles follow to their end, by those of one tick."""


class Seen:
    """One request, as far as it has come. Times ending in `_s` are the machine's clock."""

    __slots__ = (
        "arrived_s", "attempt_id", "attempts", "cached_tokens", "dispatched_s", "error", "first_token_s", "gpu",
        "latency_ms", "mode", "model", "output_tokens", "predicted_tokens", "prompt_tokens", "queue_ms", "request_id",
        "state", "template", "tenant", "ttft_ms",
    )  # fmt: skip

    def __init__(self, request_id: str, tenant: str, model: str, arrived_s: float, prompt_tokens: int) -> None:
        self.request_id = request_id
        self.tenant = tenant
        self.model = model
        self.arrived_s = arrived_s
        self.prompt_tokens = prompt_tokens
        self.state: RequestState = "waiting"
        self.template: str | None = None
        self.gpu: str | None = None
        self.mode: str | None = None
        self.predicted_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self.attempts = 0
        self.attempt_id: AttemptId | None = None
        self.dispatched_s: float | None = None
        self.first_token_s: float | None = None
        self.queue_ms: float | None = None
        self.ttft_ms: float | None = None
        self.latency_ms: float | None = None
        self.error: str | None = None

    def end(self, end: End) -> None:
        """Take over what is known at the end: it is measured from the first byte, and not from the machine's."""
        self.state, self.template, self.error = end.state, end.template, end.error
        self.gpu, self.mode, self.attempts = end.gpu, end.mode, end.attempts
        self.prompt_tokens, self.output_tokens = end.prompt_tokens, end.output_tokens
        self.predicted_tokens, self.cached_tokens = end.predicted_cached_tokens, end.cached_tokens
        self.queue_ms, self.ttft_ms, self.latency_ms = end.queue_ms, end.ttft_ms, end.latency_ms

    def row(self, epoch_s: float) -> LiveRequest:
        """As consoles are told. `epoch_s` is when the machine's clock was 0."""
        return LiveRequest(
            request_id=self.request_id,
            at=iso(epoch_s + self.arrived_s),
            tenant=self.tenant,
            model=self.model,
            template=self.template,
            state=self.state,
            gpu=self.gpu,
            mode=self.mode,
            prompt_tokens=self.prompt_tokens,
            predicted_cached_tokens=self.predicted_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            attempts=self.attempts,
            queue_ms=_rounded(self.queue_ms),
            ttft_ms=_rounded(self.ttft_ms),
            latency_ms=_rounded(self.latency_ms),
            error=self.error,
        )


class Requests:
    """All that live, and the latest that have ended.

    Of what changes between two ticks at most `most` requests are told. Those that consoles know of come first, so that
    none of them seems to run for ever; of the others those that came first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._live: dict[str, Seen] = {}
        self._by_attempt: dict[AttemptId, Seen] = {}
        self._ended: deque[Seen] = deque(maxlen=most)
        self._changed: dict[str, Seen] = {}
        self._followed: set[str] = set()
        self._dropped = 0
        self.watched = False
        """Whether changes are to be told."""

    # --- what happens ---

    def arrived(self, spec: RequestSpec, now_s: float) -> Seen:
        """One is to be placed."""
        seen = Seen(spec.request_id, spec.tenant, spec.model, now_s, spec.prompt.n_tokens)
        self._live[seen.request_id] = seen
        return seen

    def placed(self, decision: Decision) -> Seen | None:
        """It waits for an engine; None if it has ended meanwhile, as below."""
        seen = self._live.get(decision.request_id)
        if seen is not None:
            seen.gpu, seen.mode, seen.predicted_tokens = decision.gpu, decision.mode.value, decision.cached_tokens
            self.change(seen)
        return seen

    def dispatched(self, request_id: RequestId, attempt_id: AttemptId, now_s: float) -> Seen | None:
        """It goes to its engine."""
        seen = self._live.get(request_id)
        if seen is not None:
            self._forget_attempt(seen)
            seen.attempt_id, seen.dispatched_s = attempt_id, now_s
            seen.attempts += 1
            seen.queue_ms = 1000 * (now_s - seen.arrived_s)
            self._by_attempt[attempt_id] = seen
            self.change(seen)
        return seen

    def first_token(self, attempt_id: AttemptId, now_s: float) -> Seen | None:
        """Its first token has come."""
        seen = self._by_attempt.get(attempt_id)
        if seen is not None and seen.first_token_s is None:
            seen.first_token_s, seen.ttft_ms = now_s, 1000 * (now_s - seen.arrived_s)
            self.change(seen)
        return seen

    def ended(self, end: End, now_s: float) -> tuple[Seen, RequestState | None]:
        """It is over; and its state until then, None if it had never been let in."""
        seen = self._live.pop(end.request_id, None)
        before: RequestState | None = None
        if seen is None:
            arrived_s = now_s - end.latency_ms / 1000
            seen = Seen(end.request_id, end.tenant, end.model, arrived_s, end.prompt_tokens)
        else:
            before = seen.state
            self._forget_attempt(seen)
        seen.end(end)
        self._ended.append(seen)
        self.change(seen)
        return seen, before

    def _forget_attempt(self, seen: Seen) -> None:
        if seen.attempt_id is not None:
            self._by_attempt.pop(seen.attempt_id, None)

    # --- what is told ---

    def change(self, seen: Seen) -> None:
        """Something about it is new."""
        if not self.watched:
            return
        name = seen.request_id
        if name not in self._changed and name not in self._followed and not self._has_room():
            self._dropped += 1
            return
        self._changed[name] = seen
        if name in self._live:
            self._followed.add(name)
        else:
            self._followed.discard(name)

    def _has_room(self) -> bool:
        return len(self._changed) < self._most and len(self._followed) < _FOLLOWED * self._most

    def take_changes(self) -> tuple[list[Seen], int]:
        """What has changed since this was last asked, and how many changes were too many to tell."""
        changed, dropped = list(self._changed.values()), self._dropped
        self._changed, self._dropped = {}, 0
        return changed, dropped

    def latest(self) -> list[Seen]:
        """For a console that begins: what lives and what has ended, the latest of both, oldest first."""
        live = list(self._live.values())[-self._most :]
        if self.watched:
            self._followed.update(seen.request_id for seen in live)
        return sorted([*self._ended, *live], key=lambda seen: seen.arrived_s)

    def unwatch(self) -> None:
        """Nobody is told any more."""
        self.watched = False
        self._followed.clear()
        self.take_changes()

    def __iter__(self) -> Iterator[Seen]:
        """Those that live."""
        return iter(self._live.values())


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 1)

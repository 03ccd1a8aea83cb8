"""A simulation as the host of a live feed: what the daemon knows of engines and tenants, of modelled ones."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from msgspec.structs import replace

from preble.daemon.config import SchedulerConfig
from preble.daemon.flow.effects import Dispatch, Effect, Placed
from preble.daemon.flow.events import Arrived, EngineDown, EngineUp, Event
from preble.daemon.flow.explain import foretell, suppose
from preble.daemon.ids import BlockKey, TenantName
from preble.daemon.obs.live.board import Board
from preble.daemon.obs.live.facts import End, GpuNow, TenantNow
from preble.daemon.sched.types import Decision
from preble.daemon.sim.demo import BATCH, PARTS, WEIGHTS
from preble.daemon.sim.types import Outcome, Piece
from preble.daemon.sim.watching import Look
from preble.daemon.sim.world import MODEL, World
from preble.daemon.tenancy.standing import Standing
from preble.daemon.wire.admin import Actual, Explanation
from preble.daemon.wire.live import LiveTemplate, LogLine, PrefixPage, RequestState, TemplateKey
from preble.daemon.wire.moments import iso

_STATES: Mapping[str, RequestState] = {
    "finished": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "refused": "refused",
}
_MOST_PREFIXES = 40
_DAILY_TOKENS = {"planner": 40_000_000, "press": 100_000_000}


class _Template:
    """A prefix by name, and what came of requests that begin with it."""

    def __init__(self, key: TemplateKey, n_tokens: int, keys: tuple[BlockKey, ...]) -> None:
        self.key = key
        self.n_tokens = n_tokens
        self.keys = keys
        self.requests = 0
        self.cached_tokens = 0

    def begins(self, keys: Sequence[BlockKey]) -> bool:
        """Whether a prompt of these blocks begins with it."""
        return len(keys) >= len(self.keys) and keys[len(self.keys) - 1] == self.keys[-1]

    def count(self, outcome: Outcome) -> None:
        """A request that began with it has ended."""
        self.requests += 1
        self.cached_tokens += min(outcome.cached_tokens, self.n_tokens)

    @property
    def hit_ratio(self) -> float | None:
        """Of its tokens, the share that was found cached; None before the first request."""
        return round(self.cached_tokens / (self.requests * self.n_tokens), 3) if self.requests else None


class DemoHost:
    """Tells a board what happens in a world, and answers what it asks. Times are the world's clock."""

    def __init__(self, templates: Mapping[TemplateKey, Sequence[Piece]], epoch_s: float, interval_s: float) -> None:
        self.interval_s = interval_s
        self.on_pass: Callable[[float], None] = lambda now_s: None
        self._registered = templates
        self._templates: list[_Template] = []
        self._epoch_s = epoch_s
        self._now_s = 0.0
        self._up_s: dict[str, float] = {}
        self._decided: dict[str, Explanation] = {}
        """Of requests that have not ended."""
        self._explained: dict[str, Explanation] = {}
        """Not told yet."""
        self._used: dict[str, _Template] = {}
        self._attempts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._world: World | None = None
        self._board: Board | None = None

    def attach(self, world: World, board: Board) -> None:
        """To be called before anything happens."""
        self._world, self._board = world, board
        for key, prompt in self._registered.items():
            n_tokens = sum(piece.n_tokens for piece in prompt)
            self._templates.append(_Template(key, n_tokens, world.block_keys(prompt)))

    def template_of(self, keys: Sequence[BlockKey]) -> str | None:
        """The longest template whose prefix ends in a stretch of these blocks."""
        there = {each.keys[-1]: each for each in self._templates if each.keys}
        return next((there[key].key.reference for key in reversed(keys) if key in there), None)

    # --- what the world tells ---

    def stepped(self, now_s: float, event: Event, effects: Sequence[Effect]) -> None:
        """The machine has taken a step."""
        assert self._board is not None
        self._now_s = now_s
        match event:
            case Arrived(request=spec):
                template = next((each for each in self._templates if each.begins(spec.prompt.block_keys)), None)
                if template is not None:
                    self._used[spec.request_id] = template
            case EngineUp(gpu=gpu):
                self._up_s[gpu] = now_s
                self._log("info", "engine_ready", gpu=gpu)
            case EngineDown(gpu=gpu):
                del self._up_s[gpu]
                self._log("error", "engine_ended", gpu=gpu, error="its process was killed")
            case _:
                pass
        for effect in effects:
            match effect:
                case Placed(decision=decision):
                    self._explain(decision)
                case Dispatch(request_id=request_id):
                    self._attempts[request_id] += 1
                case _:
                    pass
        self._board.stepped(now_s, event, effects)

    def ended(self, outcome: Outcome, reason: str) -> None:
        """A request has ended."""
        assert self._board is not None
        known, attempts = self._decided.pop(outcome.request_id, None), self._attempts.pop(outcome.request_id, 0)
        self._tokens[outcome.tenant] += outcome.prompt_tokens + outcome.output_tokens
        template = self._used.pop(outcome.request_id, None)
        if template is not None:
            template.count(outcome)
        end = End(
            request_id=outcome.request_id,
            tenant=outcome.tenant,
            model=MODEL,
            state=_STATES[reason],
            gpu=outcome.gpu,
            mode=known.mode if known is not None else None,
            prompt_tokens=outcome.prompt_tokens,
            predicted_cached_tokens=outcome.predicted_tokens if attempts else None,
            cached_tokens=outcome.cached_tokens if attempts else None,
            output_tokens=outcome.output_tokens,
            attempts=attempts,
            queue_ms=_since(outcome.arrived_s, outcome.dispatched_s),
            ttft_ms=_since(outcome.arrived_s, outcome.first_token_s),
            latency_ms=1000 * (outcome.ended_s - outcome.arrived_s),
            error=None if outcome.complete else f"The request {reason}.",
            refused_by="no_engine" if reason == "refused" else None,
            template=template.key.reference if template is not None else None,
        )
        self._board.ended(end, self._now_s)
        if known is not None:
            self._explained[end.request_id] = replace(known, attempts=attempts, actual=_actual(end))
        self._log("info", "request_ended", request_id=end.request_id, tenant=end.tenant, status=end.state)

    def _explain(self, decision: Decision) -> None:
        known = foretell(decision, self._epoch_s + self._now_s)
        self._decided[decision.request_id] = self._explained[decision.request_id] = known

    def take_explained(self) -> list[Explanation]:
        """Decisions that were made, or of which is known what came of them, since this was last asked."""
        taken, self._explained = list(self._explained.values()), {}
        return taken

    def passed(self, now_s: float) -> None:
        """An interval has passed."""
        self._now_s = now_s
        self.on_pass(now_s)

    def _log(self, level: str, event: str, **fields: str) -> None:
        assert self._board is not None
        self._board.logged(LogLine(at=iso(self._epoch_s + self._now_s), level=level, event=event, fields=fields))

    # --- what the board asks ---

    def gpus(self) -> Sequence[GpuNow]:
        """Every engine."""
        assert self._world is not None
        return [self._gpu(look) for look in self._world.look()]

    def _gpu(self, look: Look) -> GpuNow:
        view, load = look.view, look.load
        up_s = self._up_s.get(view.gpu)
        return GpuNow(
            gpu=view.gpu,
            state="ready" if view.up else "backoff",
            draining=view.draining,
            detail="" if view.up else "its process was killed",
            model=view.model,
            running=view.running,
            waiting=view.waiting,
            kv_used_ratio=load.kv_held_ratio if view.up else None,
            kv_cached_ratio=load.kv_cached_ratio if view.up else None,
            kv_blocks=view.kv_blocks,
            cached_tokens=view.resident_blocks * view.block_size,
            load_ms=view.load_ms,
            outstanding_ms=view.outstanding_ms,
            decode_ratio=view.decode_ratio,
            prefill_error_ratio=view.time_error.prefill_ratio if view.time_error else None,
            decode_error_ratio=view.time_error.decode_ratio if view.time_error else None,
            restarts=look.starts - 1,
            uptime_s=None if up_s is None else self._now_s - up_s,
            age_s=0.0 if view.up else None,
        )

    def tenants(self, active: Collection[TenantName], most: int) -> Sequence[TenantNow]:
        """All of the demo's."""
        names = sorted({name for part in PARTS for name in part.tenants})
        return [self._tenant(TenantName(name)) for name in names]

    def _tenant(self, name: TenantName) -> TenantNow:
        daily = _DAILY_TOKENS.get(name)
        return TenantNow(
            tenant=name,
            priority="batch" if name in BATCH else "interactive",
            weight=WEIGHTS.get(name, 1.0),
            suspended=False,
            budget_used_ratio=None if daily is None else self._tokens[name] / daily,
        )

    def standings(self, tenants: Collection[TenantName]) -> Mapping[TenantName, Standing]:
        """Of those of them that ever asked for something."""
        assert self._world is not None
        return self._world.standings(tenants)

    def templates(self) -> Sequence[LiveTemplate]:
        """The demo's, where they are now."""
        return [self._template(template) for template in self._templates]

    def _template(self, template: "_Template") -> LiveTemplate:
        assert self._world is not None
        cached = self._world.cached_blocks(template.keys)
        shares = {look.view.gpu: cached.get(look.view.gpu, 0) / len(template.keys) for look in self._world.look()}
        of_min = max(1.0, self._now_s) / 60
        return LiveTemplate(
            key=template.key,
            cacheable_tokens=template.n_tokens,
            requests_per_min=round(template.requests / of_min, 1),
            hit_ratio=template.hit_ratio,
            saved_tokens_per_min=round(template.cached_tokens / of_min),
            pinned=False,
            states={gpu: "warm" if share == 1 else "partial" if share > 0 else "cold" for gpu, share in shares.items()},
        )

    def failures(self) -> Sequence[str]:
        """Nothing fails but engines."""
        return ()


def _actual(end: End) -> Actual:
    return Actual(
        status=end.state,
        cached_tokens=end.cached_tokens,
        output_tokens=end.output_tokens,
        queue_ms=end.queue_ms,
        ttft_ms=end.ttft_ms,
        latency_ms=end.latency_ms,
    )


def _since(from_s: float, at_s: float | None) -> float | None:
    return None if at_s is None else 1000 * (at_s - from_s)


Answer = Explanation | PrefixPage


def answers(
    host: DemoHost, world: World, config: SchedulerConfig, *, with_prefixes: bool
) -> Iterator[tuple[str, Answer]]:
    """What a console may ask, as it asks it, as far as it is new: of decisions, and of what prompts share."""
    for known in host.take_explained():
        yield f"explain/{known.request_id}", known
        if len(known.candidates) > 1:
            yield f"what-if/{known.request_id}/{known.gpu}", suppose(known, [known.gpu], config)
    if with_prefixes:
        beginnings = world.prefixes(None, _MOST_PREFIXES, host.template_of)
        yield "prefixes//", replace(beginnings, next=None)
        for row in beginnings.rows:
            if row.children:
                yield (
                    f"prefixes/{row.id}/",
                    replace(world.prefixes(row.id, _MOST_PREFIXES, host.template_of), next=None),
                )

"""What an order for a GPU would do, worked out by the machine on what there is now; nothing is changed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from preble.daemon.ids import GpuId, TenantName
from preble.daemon.sched.attempt import Attempt
from preble.daemon.sched.engine import Engine
from preble.daemon.sched.scheduler import Scheduler
from preble.daemon.wire.percents import percent

_PREVIEWED = 32
"""Waiting requests for which is worked out where they would go."""
_MOST_TENANTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """Of one GPU, as it is now."""

    running: int
    longest_s: float
    """About how long the request that takes longest still runs."""
    waiting: int
    moves: dict[GpuId, int]
    """Of the first who wait, where they would go; none if nobody else serves the model."""
    previewed: int
    rise_ratio: float | None
    """By so much the load of the others would rise if what comes stays as it was; None if there are none."""
    most_loaded: GpuId | None
    """Of the others."""
    cached_tokens: int
    cached_ratio: float | None
    """Of what all GPUs of the model cache."""
    tenants: list[tuple[TenantName, float]]
    """Those that have most there, with their share of its requests."""


def foresee(scheduler: Scheduler, engine: Engine, now_s: float) -> Foresight:
    """Without this engine."""
    others = [each for each in scheduler.serving(engine.model) if each is not engine]
    waiting = list(islice(engine.waiting, _PREVIEWED))
    others_ms = sum(each.load_ms for each in others)
    everywhere = [each for each in scheduler.engines.values() if each.model == engine.model]
    index = scheduler.index(engine.model)
    cached = sum(index.resident_blocks(each.gpu) for each in everywhere)
    here = index.resident_blocks(engine.gpu)
    return Foresight(
        running=len(engine.running),
        longest_s=max((_left_s(engine, attempt, now_s) for attempt in engine.running.values()), default=0.0),
        waiting=len(engine.waiting),
        moves=_moves(scheduler, others, waiting, now_s) if others else {},
        previewed=len(waiting),
        rise_ratio=engine.load_ms / others_ms if others_ms > 0 else None,
        most_loaded=max(others, key=lambda each: (each.load_ms, each.gpu)).gpu if others else None,
        cached_tokens=here * (engine.limits.block_size if engine.up else 0),
        cached_ratio=here / cached if cached else None,
        tenants=_tenants([*engine.running.values(), *engine.waiting]),
    )


def _moves(
    scheduler: Scheduler, others: Sequence[Engine], waiting: Sequence[Attempt], now_s: float
) -> dict[GpuId, int]:
    movable = [attempt.spec for attempt in waiting if attempt.spec.warms is None]  # what was to warm this one ends
    return dict(Counter(scheduler.preview(spec, now_s, others).gpu for spec in movable).most_common())


def _left_s(engine: Engine, attempt: Attempt, now_s: float) -> float:
    """By its expected output, at the engine's present batch."""
    model, sequences = engine.time_model, max(1, engine.sequences)
    step_ms = model.decode_base_ms + model.decode_ms_per_sequence * sequences
    whole_ms = model.prefill_ms(attempt.computed_tokens)
    whole_ms += step_ms * attempt.decision.expected_output_tokens / attempt.spec.n_sequences
    return max(0.0, whole_ms / 1000 - (now_s - attempt.waits_since_s))


def _tenants(attempts: Sequence[Attempt]) -> list[tuple[TenantName, float]]:
    counts = Counter(attempt.spec.tenant for attempt in attempts)
    return [(tenant, count / len(attempts)) for tenant, count in counts.most_common(_MOST_TENANTS)]


# --- in words ---


def drained(gpu: str, seen: Foresight) -> list[str]:
    """What draining it would do."""
    return [*_requests(gpu, seen), *_load(seen), *_affected(seen)]


def restarted(gpu: str, seen: Foresight) -> list[str]:
    """What restarting it would do."""
    share = "" if seen.cached_ratio is None else f" ({percent(seen.cached_ratio)} of the model's)"
    lost = [f"{seen.cached_tokens:,} cached tokens would be lost{share}."] if seen.cached_tokens else []
    return [*_requests(gpu, seen), *lost, *_load(seen), *_affected(seen)]


def undrained(gpu: str, seen: Foresight) -> list[str]:
    """What putting it back to work would do."""
    return [f"{gpu} takes new requests again; {seen.cached_tokens:,} tokens are cached there."]


def _requests(gpu: str, seen: Foresight) -> Iterator[str]:
    yield f"{gpu} gets no new requests." if seen.most_loaded else f"{gpu} gets no new requests, and nobody else can."
    if seen.running:
        them = "1 running request finishes" if seen.running == 1 else f"{seen.running} running requests finish"
        yield f"{them} first (longest about {seen.longest_s:.0f} s)."
    if seen.waiting and seen.moves:
        where = ", ".join(f"{other} {count}" for other, count in seen.moves.items())
        of = "" if seen.previewed == seen.waiting else f" of the first {seen.previewed}"
        yield f"{seen.waiting} waiting move{'s' if seen.waiting == 1 else ''} to others{of}: {where}."
    elif seen.waiting:
        yield f"{seen.waiting} waiting stay{'s' if seen.waiting == 1 else ''}: nobody else serves the model."


def _load(seen: Foresight) -> Iterator[str]:
    if seen.rise_ratio is not None:
        rise = percent(seen.rise_ratio)
        yield f"Load elsewhere rises by {rise} if what comes stays as it was (most: {seen.most_loaded})."


def _affected(seen: Foresight) -> Iterator[str]:
    if seen.tenants:
        shares = ", ".join(f"{tenant} {percent(share)}" for tenant, share in seen.tenants)
        yield f"Tenants with most there: {shares}."

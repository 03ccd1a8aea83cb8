"""What pinning a template would do, worked out on what there is now; nothing is changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preble.daemon.ids import GpuId
from preble.daemon.wire.percents import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class PinPlace:
    """A GPU that would keep the prefix, as it is now."""

    gpu: GpuId
    cached_tokens: int
    """Of the prefix, there already."""
    others_blocks: int
    """Pinned there by other pins."""
    most_blocks: int
    """That can be pinned there in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinForesight:
    """Of one pin."""

    tokens: int
    blocks: int
    replicas: int
    max_replicas: int
    places: Sequence[PinPlace]
    """Where it would be kept: fewer than `replicas` where there is no room for more."""
    elsewhere: Sequence[GpuId]
    """Others that have all of it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinBudget:
    """Tokens that a tenant, or a key, has pinned."""

    whose: str
    others_tokens: int
    """Of its other pins."""
    tokens: int
    """Of this one, as often as it is to be there."""
    limit_tokens: int | None
    """None: none."""


# --- in words ---


def kept(seen: PinForesight) -> Iterator[str]:
    """Where, and what that takes of the GPUs; for operators, since it tells of all tenants' pins."""
    gpus = ", ".join(place.gpu for place in seen.places) or "no GPU yet"
    yield f"{size(seen)} are kept on {gpus}."
    for place in seen.places:
        yield f"{_computed(place, seen.tokens)}; {_taken(place, seen.blocks)}."
    missing = seen.replicas - len(seen.places)
    if missing > 0:
        yield f"{missing} more wanted: no other GPU takes new requests and has room for it."
    if seen.max_replicas > seen.replicas:
        yield f"While its requests take more time than that is good for, up to {seen.max_replicas} GPUs keep it."
    if seen.elsewhere:
        have = "has" if len(seen.elsewhere) == 1 else "have"
        yield f"{', '.join(seen.elsewhere)} {have} all of it too, and may evict it."


def size(seen: PinForesight) -> str:
    """How much it is."""
    return f"{seen.tokens:,} tokens ({seen.blocks:,} blocks)"


def budgeted(budget: PinBudget) -> str:
    """What it takes of a budget, in which it fits."""
    whole = budget.others_tokens + budget.tokens
    if budget.limit_tokens is None:
        return (
            f"{budget.whose} then has {whole:,} tokens pinned, of which {budget.tokens:,} are this; there is no limit."
        )
    share, its = percent(whole / budget.limit_tokens), percent(budget.tokens / budget.limit_tokens)
    return (
        f"{budget.whose} then has {whole:,} of {budget.limit_tokens:,} tokens pinned that it may ({share}); "
        f"this is {its} of them."
    )


def _computed(place: PinPlace, tokens: int) -> str:
    if place.cached_tokens >= tokens:
        return f"{place.gpu} has all of it already"
    if place.cached_tokens:
        missing = tokens - place.cached_tokens
        return f"{place.gpu} has {place.cached_tokens:,} tokens of it already, and computes {missing:,}"
    return f"{place.gpu} computes all of it"


def _taken(place: PinPlace, blocks: int) -> str:
    whole = percent((place.others_blocks + blocks) / place.most_blocks)
    its = percent(blocks / place.most_blocks)
    return f"it takes {its} of the {place.most_blocks:,} blocks that can be pinned there, all pins together {whole}"

"""Which templates begin alike, where they part, and what would make more of one cacheable."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from preble.daemon.sched.blocks import TokenIds
from preble.daemon.templates.prefix import shared_tokens, whole_blocks
from preble.daemon.wire.templates import Advice, Parting

PARTINGS_SHOWN = 10
VARIABLES_TRIED = 8
"""Of those that come first; each costs as much as the whole analysis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another template's newest version, and the tokens of it that are always the same."""

    name: str
    owner: str | None
    version: int
    prefix: TokenIds


def partings(
    prefix: TokenIds, others: Iterable[Other], block_tokens: int, text_of: Callable[[int], str]
) -> list[Parting]:
    """Those that share a whole block at least, those that share most first."""
    found = [(shared_tokens(prefix, other.prefix), other) for other in others]
    found = [(shared, other) for shared, other in found if shared >= block_tokens]
    found.sort(key=lambda each: (-each[0], each[1].name, each[1].owner or ""))

    def text_at(tokens: TokenIds, at: int) -> str | None:
        return text_of(int(tokens[at])) if at < len(tokens) else None

    return [
        Parting(
            name=other.name,
            owner=other.owner,
            version=other.version,
            shared_tokens=shared,
            ours=text_at(prefix, shared),
            theirs=text_at(other.prefix, shared),
        )
        for shared, other in found[:PARTINGS_SHOWN]
    ]


def advised(names: Sequence[str], prefix_tokens: int, without: Sequence[int], block_tokens: int) -> list[Advice]:
    """Advice to move as few variables as bring most, to within a block, if that is a block or more.

    `without[k]` are the tokens of the prefix if the first k + 1 of the variables `names` stood behind it.
    """
    most = max(without, default=0)
    if most - prefix_tokens < block_tokens:
        return []
    enough = next(at for at, tokens in enumerate(without) if tokens > most - block_tokens)
    moved = list(names[: enough + 1])
    best = whole_blocks(without[enough], block_tokens) - whole_blocks(prefix_tokens, block_tokens)
    told = ", ".join(f"{{{{{name}}}}}" for name in moved)
    text = f"Move {told} behind the text that is always the same: {best} more tokens would be cacheable."
    return [Advice(variables=moved, more_tokens=best, text=text)]

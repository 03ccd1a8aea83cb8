"""E2, exploitation + exploration (paper, Algorithm 1): given what every GPU would cost, which one gets the request.

A pure choice between candidates; it measures nothing and changes nothing. Ties go to the GPU first by name.
"""

from collections.abc import Sequence
from typing import NamedTuple

from preble.daemon.sched.types import Candidate, Mode


class Choice(NamedTuple):
    """The GPU that gets the request, and the rule that says so."""

    chosen: Candidate
    mode: Mode
    reason: str


def choose(candidates: Sequence[Candidate], decode_imbalance_ratio: float) -> Choice:
    """Exploit when more of the prompt is cached somewhere than would have to be computed; else explore.

    `candidates` must not be empty. A tie of cached and missed tokens explores.
    """
    most_cached = max(candidates, key=lambda candidate: candidate.cached_tokens)
    if most_cached.missed_tokens < most_cached.cached_tokens:
        holders = [candidate for candidate in candidates if candidate.holds_prefix]
        return Choice(
            _cheapest(holders),
            Mode.EXPLOIT,
            f"{most_cached.cached_tokens} tokens are cached and {most_cached.missed_tokens} are not: "
            f"lowest cost of the {_count(holders, 'GPU')} that cache the biggest part",
        )
    why = f"{most_cached.cached_tokens} tokens are cached and {most_cached.missed_tokens} are not"
    heavy = _decode_heavy(candidates, decode_imbalance_ratio)
    if heavy is not None:
        return Choice(
            heavy,
            Mode.DECODE_HEAVY,
            f"{why}: prefill goes to the GPU whose load is {heavy.decode_ratio:.0%} decoding, "
            f"over {decode_imbalance_ratio:g} times the others' mean",
        )
    return Choice(_cheapest(candidates), Mode.EXPLORE, f"{why}: lowest cost of {_count(candidates, 'GPU')}")


def _cheapest(candidates: Sequence[Candidate]) -> Candidate:
    return min(candidates, key=lambda candidate: (candidate.cost_ms, candidate.gpu))


def _decode_heavy(candidates: Sequence[Candidate], imbalance_ratio: float) -> Candidate | None:
    """The GPU that decodes so much more than the others that prefill work fits in beside it (section 3.2).

    The paper gives no number. Comparing with the others' mean keeps the rule silent where every GPU mostly decodes,
    and bounding its load keeps it from piling work on the one busy GPU while others idle (docs/decisions/0004).
    """
    heaviest = min(candidates, key=lambda candidate: (-candidate.decode_ratio, candidate.gpu))
    others = [candidate for candidate in candidates if candidate is not heaviest]
    if not others or heaviest.decode_ratio <= 0.5:
        return None
    mean_ratio = sum(candidate.decode_ratio for candidate in others) / len(others)
    mean_load_ms = sum(candidate.load_ms for candidate in others) / len(others)
    is_heavy = heaviest.decode_ratio > imbalance_ratio * mean_ratio
    return heaviest if is_heavy and heaviest.load_ms <= imbalance_ratio * mean_load_ms else None


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"

"""How a GPU is chosen among candidates: E2, the paper's own E2, and the baselines they are measured against.

A policy only chooses. What a GPU costs, what waits and what runs is the engines' business; whether waiting requests
are ordered by their cached share, moved or rebalanced is a switch that the policy carries (`Traits`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import msgspec

from preble.daemon.config import PolicyName, SchedulerConfig
from preble.daemon.ids import GpuId
from preble.daemon.sched.types import Candidate, Mode
from preble.daemon.wire.percents import percent

_CACHED = attrgetter("cached_tokens")
_COST = attrgetter("cost_ms")


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The GPU that gets the request, and the rule that says so."""

    chosen: Candidate
    mode: Mode
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a policy wants of the rest of the scheduler."""

    counts_others: bool = False
    """Rank GPUs by what a request costs all requests, and not by L + M + P."""
    exploits_longest: bool = False
    """Exploit GPUs that have about the longest match, and not those that have the node with the most tokens."""
    load_weight: float = 0.0
    """Of L in what it costs all requests."""
    batched_decode: bool = True
    """Count a token's decoding as its share of a step at the GPU's usual batch, rather than as a step of its own."""
    grouped: bool = False
    """Start waiting requests by groups of cached share (paper, section 3.3) rather than first come, first served."""
    replicates: bool = False
    """Bring a prefix to another GPU when its requests wait ever longer (section 3.2)."""
    moves: bool = False
    """Let a GPU that would idle take what waits elsewhere."""


class Policy(Protocol):
    """Chooses between the GPUs of one model. Is asked once per placement, and may remember.

    To preview a decision a copy of it is asked, so it keeps its memory small and to itself.
    """

    @property
    def traits(self) -> Traits:
        """Fixed for the policy's life."""

    def choose(self, candidates: Sequence[Candidate], now_s: float) -> Choice:
        """Choose from `candidates`, which are not empty and in the order of names."""


def make_policy(config: SchedulerConfig) -> Policy:
    """Make the configured policy for one model."""
    match config.policy:
        case "e2":
            traits = Traits(
                counts_others=True,
                exploits_longest=True,
                load_weight=config.load_weight,
                grouped=config.cached_first,
                moves=config.move_waiting,
            )
            return E2(traits, config, TooDear(config) if config.rebalance else None)
        case "e2_paper":
            traits = Traits(batched_decode=False, grouped=config.cached_first, replicates=config.replicate)
            return E2(traits, config, Shift(config) if config.rebalance else None)
        case "round_robin":
            return RoundRobin()
        case "least_loaded":
            return LeastLoaded()
        case "prefix_affinity":
            return PrefixAffinity()


POLICIES: tuple[PolicyName, ...] = ("e2", "e2_paper", "round_robin", "least_loaded", "prefix_affinity")


class Rebalancing(Protocol):
    """Says when a prefix is not to be exploited because those who cache it have too much to do (section 3.2)."""

    def instead(self, holder: Candidate, candidates: Sequence[Candidate], now_s: float) -> tuple[Candidate, str] | None:
        """The GPU to go to instead of the cheapest holder, and why; None to exploit."""


class E2:
    """Exploitation + exploration (paper, Algorithm 1)."""

    def __init__(self, traits: Traits, config: SchedulerConfig, rebalancing: Rebalancing | None) -> None:
        self.traits = traits
        self._decode_balance = config.decode_balance
        self._decode_imbalance_ratio = config.decode_imbalance_ratio
        self._rebalancing = rebalancing

    def choose(self, candidates: Sequence[Candidate], now_s: float) -> Choice:
        """Exploit when more of the prompt is cached somewhere than would have to be computed; else explore.

        A tie of cached and missed tokens explores.
        """
        most_cached = max(candidates, key=_CACHED)
        why = f"{most_cached.cached_tokens} tokens are cached and {most_cached.missed_tokens} are not"
        if most_cached.missed_tokens < most_cached.cached_tokens:
            return self._exploit(candidates, why, now_s)
        heavy = _decode_heavy(candidates, self._decode_imbalance_ratio) if self._decode_balance else None
        if heavy is not None:
            reason = (
                f"{why}: prefill goes to the GPU whose load is {percent(heavy.decode_ratio)} decoding, "
                f"over {self._decode_imbalance_ratio:g} times the others' mean"
            )
            return Choice(heavy, Mode.DECODE_HEAVY, reason)
        return Choice(cheapest(candidates), Mode.EXPLORE, f"{why}: lowest cost of {_count(candidates, 'GPU')}")

    def _exploit(self, candidates: Sequence[Candidate], why: str, now_s: float) -> Choice:
        holders = [candidate for candidate in candidates if candidate.holds_prefix]
        holder = cheapest(holders)
        if self._rebalancing is not None:
            instead = self._rebalancing.instead(holder, candidates, now_s)
            if instead is not None:
                return Choice(instead[0], Mode.REBALANCE, f"{why}, but {instead[1]}")
        part = "about as much" if self.traits.exploits_longest else "the biggest part"
        only = f"the only GPU that caches {part}"
        reason = only if len(holders) == 1 else f"lowest cost of the {len(holders)} GPUs that cache {part}"
        return Choice(holder, Mode.EXPLOIT, f"{why}: {reason}")


class TooDear:
    """Ours: a holder that costs all requests so much more than another GPU is not exploited."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._ratio = config.rebalance_cost_ratio

    def instead(self, holder: Candidate, candidates: Sequence[Candidate], now_s: float) -> tuple[Candidate, str] | None:
        """Go to the cheapest of all."""
        other = cheapest(candidates)
        if holder.cost_ms <= self._ratio * other.cost_ms:
            return None
        return other, f"{holder.gpu} costs over {self._ratio:g} times as much"


class Shift:
    """The paper's: what would exploit the heaviest GPU goes to the lightest, until their loads are near each other.

    It begins when the heaviest has `rebalance_ratio` times the load of the lightest, ends at `rebalance_until_ratio`
    times, and does not begin again within `rebalance_pause_s`.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._ratio = config.rebalance_ratio
        self._until_ratio = config.rebalance_until_ratio
        self._pause_s = config.rebalance_pause_s
        self._from: GpuId | None = None
        self._ended_s = float("-inf")

    def instead(self, holder: Candidate, candidates: Sequence[Candidate], now_s: float) -> tuple[Candidate, str] | None:
        """Go to the GPU of the lightest load."""
        lightest = min(candidates, key=lambda candidate: (candidate.load_ms, candidate.gpu))
        heaviest = max(candidates, key=lambda candidate: (candidate.load_ms, candidate.gpu))
        if self._from is not None:
            source = next((candidate for candidate in candidates if candidate.gpu == self._from), None)
            if source is None or source.load_ms <= self._until_ratio * lightest.load_ms:
                self._from, self._ended_s = None, now_s
        elif heaviest.load_ms > self._ratio * lightest.load_ms and now_s - self._ended_s >= self._pause_s:
            self._from = heaviest.gpu
        if holder.gpu != self._from:
            return None
        return (
            lightest,
            f"{holder.gpu} has a load of {holder.load_ms:.0f} ms and {lightest.gpu} of {lightest.load_ms:.0f}",
        )


class RoundRobin:
    """One after the other, by name."""

    traits = Traits()

    def __init__(self) -> None:
        self._last = GpuId("")

    def choose(self, candidates: Sequence[Candidate], now_s: float) -> Choice:
        """Choose the GPU after the one chosen before; one that came or went since changes nothing for the others."""
        chosen = next((one for one in candidates if one.gpu > self._last), candidates[0])
        self._last = chosen.gpu
        return Choice(chosen, Mode.ROUND_ROBIN, "its turn")


class LeastLoaded:
    """Fewest requests waiting or running (in other systems: least outstanding requests, shortest queue)."""

    traits = Traits()

    def choose(self, candidates: Sequence[Candidate], now_s: float) -> Choice:
        """Ties go to the GPU first by name."""
        chosen = min(candidates, key=lambda candidate: (candidate.requests, candidate.gpu))
        return Choice(chosen, Mode.LEAST_LOADED, f"{_count(range(chosen.requests), 'request')} there, the fewest")


class PrefixAffinity:
    """Cache-aware routing as SGLang's router does it: the best match while loads are balanced, else the shortest queue.

    Its matches are our index's, which engines' reports keep true, and not an approximation; so it is, if anything,
    better here than in the original. Thresholds are that router's defaults.
    """

    traits = Traits()
    match_threshold = 0.5
    """Share of the prompt that must be cached for a match to count."""
    balance_requests = 32
    balance_ratio = 1.0001
    """Loads are out of balance when the longest queue exceeds the shortest by so many requests, and so many times."""

    def choose(self, candidates: Sequence[Candidate], now_s: float) -> Choice:
        """Without a match that counts, choose the GPU that caches the least."""
        fewest = min(candidates, key=lambda candidate: (candidate.requests, candidate.gpu))
        most = max(candidate.requests for candidate in candidates)
        gap = most - fewest.requests
        if gap > self.balance_requests and most > self.balance_ratio * fewest.requests:
            return Choice(fewest, Mode.LEAST_LOADED, f"queues differ by {gap} requests: the shortest")
        best = min(candidates, key=lambda candidate: (-candidate.cached_tokens, candidate.requests, candidate.gpu))
        if best.cached_tokens > self.match_threshold * (best.cached_tokens + best.missed_tokens):
            return Choice(best, Mode.EXPLOIT, f"{best.cached_tokens} tokens are cached there, the most")
        emptiest = min(candidates, key=lambda candidate: (candidate.resident_blocks, candidate.requests, candidate.gpu))
        return Choice(emptiest, Mode.EXPLORE, f"no match counts: {emptiest.resident_blocks} blocks there, the fewest")


def cheapest(candidates: Sequence[Candidate]) -> Candidate:
    """The lowest cost; ties go to the first, and candidates are in the order of names."""
    return min(candidates, key=_COST)


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

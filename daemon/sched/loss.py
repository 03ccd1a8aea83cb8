"""What an engine loses when it evicts cached blocks: the time to compute them again, times how likely that is.

The M of E2 sums it over the nodes that LRU would evict (paper, Algorithm 2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import exp

from preble.daemon.sched.types import TimeModel


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What evicting some blocks of a node loses, in ms: `chance` of it, times `again_ms`."""

    chance: Callable[[int, float], float]
    """How likely a node is missed, by its uses within the window and how long nobody has held it, as a share of that.
    """
    again_ms: Callable[[int], float]
    """Time to compute so many blocks again."""
    sure: Callable[[int], float]
    """What stands for `chance` where a node is to stay, by the requests of the window."""


NO_LOSS = Loss(lambda uses, idle_share: 0.0, lambda n_blocks: 0.0, lambda requests: 0.0)
"""That of an engine that has never been up."""


def loss_by_uses(times: TimeModel, block_size: int) -> Loss:
    """The paper's, times the requests of the window: a node is missed by the share of them that used it."""
    again_ms = _again_ms(times, block_size)
    return Loss(lambda uses, idle_share: uses, again_ms, lambda requests: requests)


def loss_by_chance(times: TimeModel, block_size: int) -> Loss:
    """Ours: a node is missed if it is used again within a window like this one.

    The share is small even for a prefix that is surely used again. A first use says nothing, so rates go by the
    others; and a node that has been idle for longer than its rate lets expect is probably not used any more: a session
    that has ended has been used often, and evicting it loses nothing.
    """
    return Loss(_used_again, _again_ms(times, block_size), lambda requests: 1.0)


def _again_ms(times: TimeModel, block_size: int) -> Callable[[int], float]:
    return cache(lambda n_blocks: times.prefill_ms(n_blocks * block_size))  # nodes are of few lengths


def _used_again(uses: int, idle_share: float) -> float:
    again = uses - 1
    if again <= 0 or idle_share >= 1:
        return 0.0
    still_used = exp(-again * idle_share / (1 - idle_share))
    return still_used * (1 - exp(-again))

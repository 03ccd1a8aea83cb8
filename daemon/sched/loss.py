"""What an engine loses when it evicts cached blocks: the time to compute them again, times how likely that is.

The M of E2 sums it over the nodes that LRU would evict (paper, Algorithm 2).
"""

from collections.abc import Callable
from math import exp

from preble.daemon.sched.types import TimeModel

Loss = Callable[[int, int, float], float]
"""What evicting so many blocks of a node loses, in ms: its uses within the window, the blocks, and how long nobody has
held it, as a share of the window."""


def no_loss(uses: int, n_blocks: int, idle_share: float) -> float:
    """That of an engine that has never been up."""
    return 0.0


def loss_by_uses(times: TimeModel, block_size: int) -> Loss:
    """The paper's, times the requests of the window: a node is missed by the share of them that used it."""

    def loss(uses: int, n_blocks: int, idle_share: float) -> float:
        return uses * times.prefill_ms(n_blocks * block_size) if uses else 0.0

    return loss


def loss_by_chance(times: TimeModel, block_size: int) -> Loss:
    """Ours: a node is missed if it is used again within a window like this one.

    The share is small even for a prefix that is surely used again. A first use says nothing, so rates go by the
    others; and a node that has been idle for longer than its rate lets expect is probably not used any more: a session
    that has ended has been used often, and evicting it loses nothing.
    """

    def loss(uses: int, n_blocks: int, idle_share: float) -> float:
        again = uses - 1
        if again <= 0 or idle_share >= 1:
            return 0.0
        still_used = exp(-again * idle_share / (1 - idle_share))
        return still_used * (1 - exp(-again)) * times.prefill_ms(n_blocks * block_size)

    return loss

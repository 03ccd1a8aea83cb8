"""What one GPU would evict next, and what that would lose: its LRU order of nodes, kept as it changes.

A node has a tick, that of its last release. Lower ticks go first, and of one tick the deeper nodes. Most ticks have one
node; those that reports brought between two releases share one, and are put in order when somebody looks.

What evicting the first blocks would lose is asked of every GPU for every request, while the front of the order changes
on one or two GPUs in between. So it is added up once, and again when something in it has changed.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import NamedTuple

from preble.daemon.ids import GpuId
from preble.daemon.sched.loss import Loss
from preble.daemon.sched.node import Node

_FRONT = 2
"""The front is added up for so many times the blocks asked for: the next prompt may need more."""

_MOMENTS = 64


class Moment(NamedTuple):
    """When a front is added up: how long nodes have been idle is told for then."""

    tick: int
    window_ticks: int
    """About as many as a window has."""

    def idle_share(self, released_tick: int) -> float:
        """How long ago it was let go, as a share of the window."""
        return max(0, self.tick - released_tick) / self.window_ticks


class Clock:
    """Counts requests, in place of seconds, which the index does not know."""

    def __init__(self) -> None:
        self.tick = 1
        self.window_ticks = 0
        """Requests that came within the window."""
        self.moment = Moment(1, 1)
        """About now: what was added up for one holds for 1 / `_MOMENTS` of a window."""

    def advance(self) -> None:
        """A request lets go of its blocks."""
        self.tick += 1
        if _MOMENTS * (self.tick - self.moment.tick) >= self.window_ticks:
            self.moment = Moment(self.tick, max(1, self.window_ticks))


class Victim(NamedTuple):
    """Blocks that a GPU would evict next."""

    node: Node
    n_blocks: int


class _Tie:
    """Several nodes of one tick."""

    __slots__ = ("nodes", "order")

    def __init__(self, *nodes: Node) -> None:
        self.nodes = dict.fromkeys(nodes)
        self.order: list[Node] | None = None
        """Deepest first, once somebody has looked; nodes that have left since may still be in it."""

    def in_order(self) -> Iterator[Node]:
        if self.order is None or len(self.order) > 2 * len(self.nodes):
            self.order = sorted(self.nodes, key=_by_depth, reverse=True)
        return (node for node in self.order if node in self.nodes)


class _Front(NamedTuple):
    """The first of the order, added up."""

    loss: Loss
    moment: Moment
    last_tick: float
    """It is as it was until something changes at a tick up to this; infinite if nothing follows."""
    nodes: list[Node]
    all_nodes: frozenset[Node]
    blocks: list[int]
    """Up to and with each node."""
    lost: list[float]

    def tells(self, n_blocks: int, loss: Loss, moment: Moment) -> bool:
        """Whether it is what would be lost of so many blocks."""
        is_enough = n_blocks <= self.blocks[-1] or self.last_tick == float("inf")
        return is_enough and self.loss is loss and self.moment is moment


class Evictable:
    """The nodes that are in one GPU's cache and that nobody who runs there holds."""

    def __init__(self, gpu: GpuId) -> None:
        self._gpu = gpu
        self._ticks: OrderedDict[int, Node | _Tie] = OrderedDict()
        """Ticks only grow, so this is in order. A plain dict would become slow to begin as its first items go."""
        self._front: _Front | None = None

    def __iter__(self) -> Iterator[Node]:
        for here in self._ticks.values():
            if isinstance(here, _Tie):
                yield from here.in_order()
            else:
                yield here

    @property
    def first_tick(self) -> int | None:
        """That of what goes first; None if there is nothing."""
        return next(iter(self._ticks), None)

    def add(self, node: Node, tick: int) -> None:
        """It was let go at `tick`: now, or together with a node that is in the order."""
        self.touch(tick)
        here = self._ticks.get(tick)
        if here is None:
            self._ticks[tick] = node
        elif isinstance(here, _Tie):
            here.nodes[node] = None
            here.order = None
        else:
            self._ticks[tick] = _Tie(here, node)

    def discard(self, node: Node, tick: int) -> None:
        """It is held again, or gone."""
        self.touch(tick)
        here = self._ticks[tick]
        if isinstance(here, _Tie):
            del here.nodes[node]
            if len(here.nodes) == 1:
                self._ticks[tick] = next(iter(here.nodes))
        else:
            del self._ticks[tick]

    def touch(self, tick: int) -> None:
        """Something about a node of this tick changes."""
        if self._front is not None and tick <= self._front.last_tick:
            self._front = None

    def victims(self, n_blocks: int, keep: Collection[Node] = ()) -> Iterator[Victim]:
        """What would be evicted to free `n_blocks`, first victim first; never a node of `keep`."""
        for node in self:
            if node in keep:
                continue
            taken = min(node.resident[self._gpu], n_blocks)
            yield Victim(node, taken)
            n_blocks -= taken
            if n_blocks <= 0:
                return

    def loss(self, n_blocks: int, keep: Collection[Node], loss: Loss, moment: Moment) -> float:
        """The sum of `loss` over these victims. As long as it is the same object, it must say the same."""
        front = self._front
        if front is None or not front.tells(n_blocks, loss, moment):
            front = self._front = self._add_up(_FRONT * n_blocks, loss, moment)
        if not front.all_nodes.isdisjoint(keep):
            return sum(self._lost(node, taken, loss, moment) for node, taken in self.victims(n_blocks, keep))
        at = bisect_left(front.blocks, n_blocks)
        if at >= len(front.nodes):  # all of it is not enough
            return front.lost[-1]
        node = front.nodes[at]
        left = n_blocks - (front.blocks[at - 1] if at else 0)
        return (front.lost[at - 1] if at else 0.0) + self._lost(node, left, loss, moment)

    def _lost(self, node: Node, n_blocks: int, loss: Loss, moment: Moment) -> float:
        return loss(node.uses.get(self._gpu, 0), n_blocks, moment.idle_share(node.released[self._gpu]))

    def _add_up(self, n_blocks: int, loss: Loss, moment: Moment) -> _Front:
        gpu = self._gpu
        nodes: list[Node] = []
        blocks, total = [], 0
        lost, total_lost = [], 0.0
        last_tick = float("inf")
        for node in self:
            here = node.resident[gpu]
            total += here
            total_lost += self._lost(node, here, loss, moment)
            nodes.append(node)
            blocks.append(total)
            lost.append(total_lost)
            if total >= n_blocks:
                last_tick = node.released[gpu]
                break
        return _Front(loss, moment, last_tick, nodes, frozenset(nodes), blocks or [0], lost or [0.0])


def _by_depth(node: Node) -> int:
    return node.start

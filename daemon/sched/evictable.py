"""What one GPU would evict next, and what that would lose: its LRU order of nodes, kept as it changes.

A node has a tick, that of its last release. Lower ticks go first, and of one tick the deeper nodes. Most ticks have one
node; those that reports brought between two releases share one, and are put in order when somebody looks. What is kept
in order is what nodes count for the GPU (`OnGpu`), which tells of most of them that they are not at the front.

What evicting the first blocks would lose is asked of every GPU for every request, while the front of the order changes
on one or two GPUs in between, and there by a node that is evicted. So the front is kept as it is, with what each of its
nodes would lose, until something joins it or too little is left of it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from math import inf
from typing import NamedTuple

from preble.daemon.ids import GpuId
from preble.daemon.sched.loss import NO_LOSS, Loss
from preble.daemon.sched.node import Node, OnGpu

_FRONT = 2
"""The front is added up for so many times the blocks asked for: the next prompt may need more."""

_MOMENTS = 64


class Moment(NamedTuple):
    """When a front is added up: how long nodes have been idle is told for then."""

    tick: int
    window_ticks: int
    """About as many as a window has."""


class Clock:
    """Counts requests, in place of seconds, which the index does not know."""

    def __init__(self) -> None:
        self.tick = 1
        self.window_ticks = 0
        """Requests that came within the window."""
        self.moment = Moment(1, 1)
        """About now: what was added up for one holds for 1 / `_MOMENTS` of a window."""

    def advance(self) -> bool:
        """A request lets go of its blocks; whether that makes it another moment."""
        self.tick += 1
        if _MOMENTS * (self.tick - self.moment.tick) < self.window_ticks:
            return False
        self.moment = Moment(self.tick, max(1, self.window_ticks))
        return True


class Victim(NamedTuple):
    """Blocks that a GPU would evict next."""

    node: Node
    n_blocks: int


class _Tie:
    """Several nodes of one tick."""

    __slots__ = ("nodes", "order")

    def __init__(self, *nodes: OnGpu) -> None:
        self.nodes = dict.fromkeys(nodes)
        self.order: list[OnGpu] | None = None
        """Deepest first, once somebody has looked; nodes that have left since may still be in it."""

    def add(self, nodes: Iterable[OnGpu]) -> None:
        self.nodes.update(dict.fromkeys(nodes))
        self.order = None

    def in_order(self) -> Iterator[OnGpu]:
        if self.order is None or len(self.order) > 2 * len(self.nodes):
            self.order = sorted(self.nodes, key=_by_depth, reverse=True)
        return (here for here in self.order if here in self.nodes)


_Weight = tuple[int, float, float]
"""Of a node: its blocks, how likely they are missed, and what evicting them would lose."""


class _Front:
    """The first of the order. It follows its nodes as they change and leave, and weighs as many as are asked for."""

    __slots__ = ("_n_weighed", "_weights", "blocks", "last_tick", "loss", "moment", "n_blocks", "nodes", "told")

    def __init__(self) -> None:
        self.blocks: dict[OnGpu, int] = {}
        self.nodes: set[Node] = set()
        """On which these are counted."""
        self.n_blocks = 0
        self.last_tick = inf
        """Whatever joins the order up to this tick belongs in it; infinite if nothing follows."""
        self.loss = NO_LOSS
        self.moment = Moment(1, 1)
        self.told: dict[int, float] = {}
        """What has been said of so many blocks since it changed."""
        self._weights: dict[OnGpu, _Weight] = {}
        """Those of the first nodes."""
        self._n_weighed = 0
        """Blocks of these."""

    def count(self, here: OnGpu) -> None:
        """Put a node behind the others."""
        self.blocks[here] = here.resident
        self.nodes.add(here.node)
        self.n_blocks += here.resident

    def recount(self, here: OnGpu) -> None:
        """Something about one of its nodes has changed."""
        self.n_blocks += here.resident - self.blocks[here]
        self.blocks[here] = here.resident
        before = self._weights.get(here)
        if before is not None:
            self._n_weighed += here.resident - before[0]
            self._weights[here] = self.weigh(here, here.resident)
            self.told = {}

    def drop(self, here: OnGpu) -> None:
        """One of its nodes has left the order."""
        self.n_blocks -= self.blocks.pop(here)
        self.nodes.remove(here.node)
        before = self._weights.pop(here, None)
        if before is not None:
            self._n_weighed -= before[0]
            self.told = {}

    def set(self, loss: Loss, moment: Moment) -> None:
        """Tell by these from now on. Who would not be missed will not be as time goes on, until it is used again."""
        if loss is not self.loss:
            self.loss, self._weights, self._n_weighed = loss, {}, 0
        self.moment, self.told = moment, {}
        for here, (n_blocks, chance, _) in self._weights.items():
            if chance:
                self._weights[here] = self.weigh(here, n_blocks)

    def lost_of_first(self, n_blocks: int, spared: Collection[OnGpu] = ()) -> float:
        """What evicting them would lose, those of nodes that are spared left out; of fewer, if there are no more."""
        up_to = n_blocks + self.blocks_of(spared) if spared else n_blocks
        if self._n_weighed < up_to:
            self._weigh_up_to(up_to)
        weights: Iterable[_Weight] = self._weights.values()
        if spared:
            weights = [weight for here, weight in self._weights.items() if here not in spared]
        lost, left = 0.0, n_blocks
        for resident, chance, of_all in weights:
            if resident >= left:
                if chance:
                    lost += chance * self.loss.again_ms(left)
                break
            lost += of_all
            left -= resident
        if not spared:
            self.told[n_blocks] = lost
        return lost

    def blocks_of(self, nodes: Iterable[OnGpu]) -> int:
        """How many some of its nodes have."""
        return sum([self.blocks[here] for here in nodes])

    def _weigh_up_to(self, n_blocks: int) -> None:
        """Go on behind those that have been weighed."""
        weights, weigh, total = self._weights, self.weigh, self._n_weighed
        for here, resident in islice(self.blocks.items(), len(weights), None):
            weights[here] = weigh(here, resident)
            total += resident
            if total >= n_blocks:
                break
        self._n_weighed = total

    def weigh(self, here: OnGpu, n_blocks: int) -> _Weight:
        """So many blocks of a node."""
        loss, (tick, window_ticks) = self.loss, self.moment
        if here.pins:
            chance = loss.sure(window_ticks)
        else:
            idle_ticks = tick - here.released
            chance = loss.chance(here.uses, idle_ticks / window_ticks if idle_ticks > 0 else 0.0)
        return n_blocks, chance, chance * loss.again_ms(n_blocks) if chance else 0.0


class Evictable:
    """The nodes that are in one GPU's cache and that nobody who runs there holds."""

    __slots__ = ("_clock", "_front", "_gpu", "_ticks", "resident_blocks")

    def __init__(self, gpu: GpuId, clock: Clock) -> None:
        self.resident_blocks = 0
        """In the GPU's cache, held or not."""
        self._gpu = gpu
        self._clock = clock
        self._ticks: OrderedDict[int, OnGpu | _Tie] = OrderedDict()
        """Ticks only grow, so this is in order. A plain dict would become slow to begin as its first items go."""
        self._front: _Front | None = None

    def __iter__(self) -> Iterator[OnGpu]:
        for here in self._ticks.values():
            if isinstance(here, _Tie):
                yield from here.in_order()
            else:
                yield here

    def clear(self) -> None:
        """There is nothing in the cache any more; the nodes that were in the order are to be unmarked."""
        self._ticks.clear()
        self._front = None
        self.resident_blocks = 0

    @property
    def first_tick(self) -> int | None:
        """That of what goes first; None if there is nothing."""
        return next(iter(self._ticks), None)

    @property
    def front_tick(self) -> float:
        """What was let go up to this tick may be at the front, where changes have to be told; nothing else is."""
        return self._front.last_tick if self._front is not None else 0

    def mark(self, nodes: Collection[OnGpu], tick: int | None = None) -> None:
        """The GPU may evict these, which are not in the order yet.

        They were let go at `tick`: now, or together with a node that is in the order.
        """
        if not nodes:
            return
        if tick is None:
            tick = self._clock.tick
        if self._front is not None and tick <= self._front.last_tick:
            self._front = None
        for here in nodes:
            here.released = tick
        tied = self._ticks.get(tick)
        if isinstance(tied, _Tie):
            tied.add(nodes)
        elif tied is not None:
            self._ticks[tick] = _Tie(tied, *nodes)
        else:
            self._ticks[tick] = _Tie(*nodes) if len(nodes) > 1 else next(iter(nodes))

    def unmark(self, nodes: Collection[OnGpu]) -> None:
        """The GPU may not evict these, or has; those that are not in the order stay so."""
        ticks, front, front_tick = self._ticks, self._front, self.front_tick
        for here in nodes:
            tick = here.released
            if not tick:
                continue
            if front is not None and tick <= front_tick and here in front.blocks:  # the tick tells it of most
                front.drop(here)
            here.released = 0
            tied = ticks[tick]
            if not isinstance(tied, _Tie):
                del ticks[tick]
                continue
            del tied.nodes[here]
            if len(tied.nodes) == 1:
                ticks[tick] = next(iter(tied.nodes))

    def join(self, upper: OnGpu, lower: OnGpu) -> None:
        """The blocks of one node are the last of another now, which was let go together with it."""
        self.unmark((lower,))
        upper.resident += lower.resident
        lower.resident = 0
        self.touch((upper,))

    def touch(self, nodes: Collection[OnGpu]) -> None:
        """What is counted on these nodes, which are in the order, has changed."""
        front = self._front
        if front is not None:
            for here in nodes:
                if here in front.blocks:
                    front.recount(here)

    def victims(self, n_blocks: int, keep: Collection[Node] = ()) -> Iterator[Victim]:
        """What would be evicted to free `n_blocks`, first victim first; never a node of `keep`."""
        for here in self:
            if here.node in keep:
                continue
            taken = min(here.resident, n_blocks)
            yield Victim(here.node, taken)
            n_blocks -= taken
            if n_blocks <= 0:
                return

    def blocks_before(self, chain: Collection[Node], most: int) -> int:
        """How many would be evicted before the first of these nodes; `most`, if they are more, or nobody may."""
        n_blocks = 0
        for here in self:
            if n_blocks >= most or here.node in chain:
                return min(n_blocks, most)
            n_blocks += here.resident
        return most

    def loss(self, n_blocks: int, keep: Collection[Node], loss: Loss) -> float:
        """The sum of `loss` over these victims. As long as it is the same object, it must say the same."""
        front = self._front
        if front is None or (front.n_blocks < n_blocks and front.last_tick != inf):
            front = self._front = self._first(_FRONT * n_blocks)
        if front.loss is not loss:
            front.set(loss, self._clock.moment)
        if not front.nodes.isdisjoint(keep):
            gpu = self._gpu
            spared = [node.counted_on(gpu) for node in front.nodes.intersection(keep)]
            if front.n_blocks - front.blocks_of(spared) >= n_blocks or front.last_tick == inf:
                return front.lost_of_first(n_blocks, spared)
            return sum([front.weigh(node.counted_on(gpu), taken)[2] for node, taken in self.victims(n_blocks, keep)])
        lost = front.told.get(n_blocks)
        return front.lost_of_first(n_blocks) if lost is None else lost

    def reweigh(self) -> None:
        """It is another moment."""
        if self._front is not None:
            self._front.set(self._front.loss, self._clock.moment)

    def _first(self, n_blocks: int) -> _Front:
        front = _Front()
        for here in self:
            front.count(here)
            if front.n_blocks >= n_blocks:
                front.last_tick = here.released
                break
        return front


class Orders:
    """Those of all GPUs, and the clock that they go by."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._of: dict[GpuId, Evictable] = {}

    def of(self, gpu: GpuId) -> Evictable:
        """One GPU's."""
        order = self._of.get(gpu)
        if order is None:
            order = self._of[gpu] = Evictable(gpu, self.clock)
        return order

    def advance(self) -> None:
        """A request lets go of its blocks. What that changes is weighed now, so that none that comes waits for it."""
        if self.clock.advance():
            for order in self._of.values():
                order.reweigh()

    def oldest(self) -> tuple[Node, GpuId] | None:
        """What some GPU let go longest ago."""
        ticks = [(order.first_tick, gpu) for gpu, order in self._of.items() if order.first_tick is not None]
        _, gpu = min(ticks, default=(0, None))
        return (next(iter(self._of[gpu])).node, gpu) if gpu is not None else None


def _by_depth(here: OnGpu) -> int:
    return here.node.start

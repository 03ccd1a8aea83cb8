"""A node of the prefix index's forest: a stretch of blocks, and what is counted on it for each GPU."""

from collections.abc import Collection, Sequence

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.mean import Mean
from preble.daemon.sched.queueing import Queueing

Children = dict[BlockKey, "Node"]

_CHILDLESS: Children = {}
"""Stands, as the next does, for every empty dict of its kind, and is never written to."""
_NO_GPUS: "dict[GpuId, OnGpu]" = {}


class OnGpu:
    """What is counted on a node for one GPU: in one object, since a decision goes through many nodes.

    A request is counted on all nodes of its chain, so as long as it is, it is found again by `above` alone: what the
    nodes hold besides need not be read.
    """

    __slots__ = ("above", "active", "gpu", "intended", "node", "pins", "released", "resident", "uses")

    def __init__(self, node: "Node", gpu: GpuId) -> None:
        self.node = node
        self.gpu = gpu
        self.above: OnGpu | None = None
        """The same for the node before, as of the last request that was counted here."""
        self.resident = 0
        """Leading blocks of the node in the GPU's cache. Engines evict a chain from its end, so a prefix stays."""
        self.intended = 0
        self.active = 0
        self.uses = 0
        """Requests within the window that were sent there and pass through the node (N_j of Algorithm 2)."""
        self.released = 0
        """If the node is resident and not active: the tick at which it was last let go. Else 0."""
        self.pins = 0
        """Prefixes that are to stay in the GPU's cache and pass through the node."""

    def split(self, upper: "Node", n_blocks: int) -> "OnGpu":
        """Leave the first blocks of the node to one of their own; what is counted there."""
        above = upper.join(self.gpu)
        above.resident, self.resident = min(self.resident, n_blocks), max(0, self.resident - n_blocks)
        above.intended, above.active = self.intended, self.active
        above.uses, above.pins = self.uses, self.pins
        above.above, self.above = self.above, above
        return above


class Node:
    """A stretch of blocks that every prompt below it shares."""

    __slots__ = (
        "gpus",
        "keys",
        "last",
        "n_blocks",
        "only",
        "outputs",
        "parent",
        "part_of",
        "queueing",
        "reported",
        "several",
        "sole",
        "start",
    )

    def __init__(self, parent: "Node | None", start: int, keys: list[BlockKey]) -> None:
        self.set_keys(keys)
        self.parent = parent
        self.only: Node | None = None
        """What follows it, if that is one node: as in a conversation, and to find it then takes no dict."""
        self.several = _CHILDLESS
        """What follows it by first keys, if these are several nodes."""
        self.start = start
        """Blocks before this node in its chain."""
        self.reported = 0
        """Leading blocks that some GPU has had since the node was made."""
        self.sole: OnGpu | None = None
        """What is counted for one GPU, if it is for no other: as in a conversation, and to find it takes no dict."""
        self.gpus = _NO_GPUS
        """What is counted by GPUs, if these are several."""
        self.part_of: Node | None = None
        """The one that has taken it in, if one has."""
        self.outputs: Mean | None = None
        """Tokens of the answers to prompts that pass through this node."""
        self.queueing: Queueing | None = None
        """How long prompts that pass through this node waited, where that is watched."""

    def set_keys(self, keys: list[BlockKey]) -> None:
        """Its blocks are these from now on; it had others, or is new."""
        self.keys = keys
        """None are left of a node that has been dropped."""
        self.n_blocks = len(keys)
        self.last = keys[-1]
        """Of the keys. It and their number tell most of those who come by enough, who read no list then."""

    def lengthen(self, keys: Sequence[BlockKey]) -> None:
        """These blocks follow its others."""
        self.keys += keys
        self.n_blocks += len(keys)
        self.last = keys[-1]

    def drop_keys(self) -> list[BlockKey]:
        """It has no blocks any more; those that it had."""
        keys, self.keys, self.n_blocks = self.keys, [], 0
        return keys

    @property
    def children(self) -> "Collection[Node]":
        """What follows it, in the order in which it came."""
        return self.several.values() if self.only is None else (self.only,)

    def child(self, key: BlockKey) -> "Node | None":
        """What may begin with this block: an only child is not looked at."""
        return self.only if self.only is not None else self.several.get(key)

    def adopt(self, child: "Node") -> None:
        """It follows this node, beside what does already."""
        if self.only is not None:
            self.several = {self.only.keys[0]: self.only, child.keys[0]: child}
            self.only = None
        elif self.several:
            self.several[child.keys[0]] = child
        else:
            self.only = child

    def replace(self, child: "Node", key: BlockKey, by: "Node") -> None:
        """In the place of a child that began with `key`, there is another that does."""
        if self.only is child:
            self.only = by
        else:
            self.several[key] = by

    def disown(self, child: "Node") -> None:
        """It does not follow this node any more."""
        if self.only is child:
            self.only = None
            return
        del self.several[child.keys[0]]
        if len(self.several) == 1:
            (self.only,) = self.several.values()
            self.several = _CHILDLESS

    def take_in(self, lower: "Node") -> None:
        """An only child is no node of its own any more: its blocks and what follows it are this one's."""
        self.only, lower.only = lower.only, None
        if self.only is not None:
            self.only.parent = self
            for below in self.only.counted:
                below.above = self.on(below.gpu)
        self.lengthen(lower.drop_keys())

    def path(self) -> "list[Node]":
        """This node and its ancestors, deepest first."""
        nodes = [self]
        node = self.parent
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes

    @property
    def counted(self) -> "Collection[OnGpu]":
        """What is counted for each GPU for which something is."""
        return self.gpus.values() if self.sole is None else (self.sole,)

    def on(self, gpu: GpuId) -> OnGpu | None:
        """What is counted for a GPU; None if that is nothing."""
        here = self.sole or self.gpus.get(gpu)
        return here if here is not None and here.gpu == gpu else None

    def counted_on(self, gpu: GpuId) -> OnGpu:
        """What is counted for a GPU for which something is."""
        here = self.on(gpu)
        assert here is not None, f"nothing is counted for {gpu}"
        return here

    def join(self, gpu: GpuId) -> OnGpu:
        """Begin to count for a GPU, for which nothing is counted yet."""
        here = OnGpu(self, gpu)
        if self.sole is not None:
            self.gpus = {self.sole.gpu: self.sole, gpu: here}
            self.sole = None
        elif self.gpus:
            self.gpus[gpu] = here
        else:
            self.sole = here
        return here

    def leave_if_empty(self, here: OnGpu) -> None:
        """Forget a GPU for which nothing is counted any more."""
        if here.resident or here.uses or here.intended or here.active or here.pins:
            return
        if self.sole is here:
            self.sole = None
            return
        del self.gpus[here.gpu]
        if len(self.gpus) == 1:
            (self.sole,) = self.gpus.values()
            self.gpus = _NO_GPUS

    def resident_on(self, gpu: GpuId) -> int:
        """Leading blocks in the GPU's cache."""
        here = self.on(gpu)
        return here.resident if here is not None else 0

    @property
    def uses(self) -> int:
        """Requests within the window that pass through it, wherever they were sent."""
        return sum([here.uses for here in self.counted])

    def learn_from(self, other: "Node") -> None:
        """Start with what has been learnt of another's prompts."""
        self.outputs = other.outputs.copy() if other.outputs else None
        self.queueing = other.queueing.copy() if other.queueing else None

    @property
    def end(self) -> int:
        """Blocks in its chain, with its own."""
        return self.start + self.n_blocks

    @property
    def is_needed(self) -> bool:
        """By what is behind it, by a request that waits or runs, or because it is to stay."""
        if self.only is not None or self.several:
            return True
        return sum([here.intended + here.active + here.pins for here in self.counted]) > 0


def is_tail(node: Node, gpu: GpuId) -> bool:
    """Whether only reports speak of it, as of an answer, of which they tell block by block: it may grow."""
    is_only_reported = not (node.is_needed or node.uses or node.outputs)
    return is_only_reported and node.resident_on(gpu) == node.n_blocks


def is_end_of(upper: Node, lower: Node) -> bool:
    """Whether a node is no more than the end of the one above: all that is counted on one is on the other as well.

    Then no prompt of the window and nothing that is pinned ends with either, and both are evicted as one. Where waits
    are watched, as the paper's policy does, nodes stay as they came: it goes by the biggest.
    """
    if upper.only is not lower or lower.several or upper.queueing or len(upper.counted) != len(lower.counted):
        return False
    behind = lower.only
    for here in lower.counted:
        above = upper.on(here.gpu)
        if above is None or not _counts_as(above, here):
            return False
        if here.resident and (above.resident < upper.n_blocks or above.released != here.released):
            return False
        is_counted = here.uses or here.intended or here.active or here.pins
        below = behind.on(here.gpu) if behind is not None and is_counted else None
        if is_counted and (below is None or not _counts_as(here, below)):
            return False  # somebody does not go on
    return True


def _counts_as(one: OnGpu, other: OnGpu) -> bool:
    return (
        one.uses == other.uses
        and one.intended == other.intended
        and one.active == other.active
        and one.pins == other.pins
    )

"""A node of the prefix index's forest: a stretch of blocks, and what is counted on it for each GPU."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.mean import Mean

Counts = dict[GpuId, int]
Children = dict[BlockKey, "Node"]

_NONE: Counts = {}
"""Stands for every empty dict of counts, most of a node's, and is never written to."""
_CHILDLESS: Children = {}


class Node:
    """A stretch of blocks that every prompt below it shares. Zero counts are absent from its dicts."""

    __slots__ = ("active", "children", "intended", "keys", "outputs", "parent", "released", "resident", "start", "uses")

    def __init__(self, parent: "Node | None", start: int) -> None:
        self.keys: list[BlockKey] = []
        """None are left of a node that has been dropped."""
        self.parent = parent
        self.children = _CHILDLESS
        self.start = start
        """Blocks before this node in its chain."""
        self.resident = _NONE
        """Leading blocks of this node in a GPU's cache. Engines evict a chain from its end, so a prefix stays."""
        self.intended = _NONE
        self.active = _NONE
        self.uses = _NONE
        """Requests within the window that were sent to a GPU and pass through this node (N_j of Algorithm 2)."""
        self.released = _NONE
        """On a GPU where it is resident and not active: the tick at which it was last let go."""
        self.outputs: Mean | None = None
        """Tokens of the answers to prompts that pass through this node."""

    def path(self) -> "Iterator[Node]":
        """This node and its ancestors, deepest first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def is_needed(self) -> bool:
        """By what is behind it, or by a request that waits or runs."""
        return bool(self.children or self.intended or self.active)


class Stretch(NamedTuple):
    """A node that a prompt passes through, and how many of its blocks the prompt shares."""

    node: Node
    n_blocks: int


def cached_of(stretch: Stretch, gpu: GpuId) -> int:
    """Blocks of one stretch that the GPU has, or will have once all that was sent there has run."""
    node, n_blocks = stretch
    return n_blocks if gpu in node.intended else min(node.resident.get(gpu, 0), n_blocks)


def changed(counts: Counts, gpu: GpuId, count: int) -> Counts:
    """The dict with this count: the same one, unless it is or becomes empty."""
    if count > 0:
        if not counts:
            return {gpu: count}
        counts[gpu] = count
        return counts
    assert count == 0, f"{gpu}: a count fell to {count}"
    if len(counts) == 1 and gpu in counts:
        return _NONE
    counts.pop(gpu, None)
    return counts


def copied(counts: Counts) -> Counts:
    """A dict of its own with the same counts."""
    return dict(counts) if counts else _NONE


def shared_blocks(own: Sequence[BlockKey], keys: Sequence[BlockKey], depth: int) -> int:
    """How many blocks of a node a prompt shares from that depth on, of which it shares the first."""
    low, high = 1, min(len(own), len(keys) - depth)
    while low < high:
        middle = (low + high + 1) // 2
        if own[middle - 1] == keys[depth + middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def depth_after(node: Node | None, key: BlockKey | None) -> int:
    """Blocks in the chain up to and with `key`, a block of `node`."""
    if node is None or key is None:
        return 0
    return node.start + (len(node.keys) if node.keys[-1] == key else node.keys.index(key) + 1)

"""A node of the prefix index's forest: a stretch of blocks, and what is counted on it for each GPU."""

from collections.abc import Collection, Iterable, Sequence

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.mean import Mean
from preble.daemon.sched.queueing import Queueing

Counts = dict[GpuId, int]
Children = dict[BlockKey, "Node"]

_NONE: Counts = {}
"""Stands for every empty dict of counts, most of a node's, and is never written to."""
_CHILDLESS: Children = {}


class Node:
    """A stretch of blocks that every prompt below it shares. Zero counts are absent from its dicts."""

    __slots__ = (
        "active", "children", "intended", "keys", "outputs", "parent", "pins", "queueing", "released", "reported",
        "resident", "start", "uses",
    )  # fmt: skip

    def __init__(self, parent: "Node | None", start: int) -> None:
        self.keys: list[BlockKey] = []
        """None are left of a node that has been dropped."""
        self.parent = parent
        self.children = _CHILDLESS
        self.start = start
        """Blocks before this node in its chain."""
        self.reported = 0
        """Leading blocks that some GPU has had since the node was made."""
        self.resident = _NONE
        """Leading blocks of this node in a GPU's cache. Engines evict a chain from its end, so a prefix stays."""
        self.intended = _NONE
        self.active = _NONE
        self.pins = _NONE
        """Prefixes that are to stay in a GPU's cache and pass through this node."""
        self.uses = _NONE
        """Requests within the window that were sent to a GPU and pass through this node (N_j of Algorithm 2)."""
        self.released = _NONE
        """On a GPU where it is resident and not active: the tick at which it was last let go."""
        self.outputs: Mean | None = None
        """Tokens of the answers to prompts that pass through this node."""
        self.queueing: Queueing | None = None
        """How long prompts that pass through this node waited, where that is watched."""

    def path(self) -> "list[Node]":
        """This node and its ancestors, deepest first."""
        nodes = [self]
        node = self.parent
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes

    def learn_from(self, other: "Node") -> None:
        """Start with what has been learnt of another's prompts, and is to stay of them."""
        self.pins = copied(other.pins)
        self.outputs = other.outputs.copy() if other.outputs else None
        self.queueing = other.queueing.copy() if other.queueing else None

    @property
    def end(self) -> int:
        """Blocks in its chain, with its own."""
        return self.start + len(self.keys)

    @property
    def is_needed(self) -> bool:
        """By what is behind it, by a request that waits or runs, or because it is to stay."""
        return bool(self.children or self.intended or self.active or self.pins)


Stretch = tuple[Node, int]
"""A node that a prompt passes through, and how many of its blocks the prompt shares."""


def cached_of(stretch: Stretch, gpu: GpuId) -> int:
    """Blocks of one stretch that the GPU has, or will have once all that was sent there has run."""
    node, n_blocks = stretch
    return n_blocks if gpu in node.intended else min(node.resident.get(gpu, 0), n_blocks)


def cached_blocks(stretches: Sequence[Stretch]) -> Counts:
    """Leading blocks of a matched prompt that each GPU has, or will have once all that was sent there has run."""
    if not stretches:
        return {}
    first, _ = stretches[0]
    return {gpu: _cached_blocks(stretches, gpu) for gpu in first.resident.keys() | first.intended.keys()}


def _cached_blocks(stretches: Iterable[Stretch], gpu: GpuId) -> int:
    total = 0
    for node, n_blocks in stretches:
        if gpu not in node.intended:
            here = node.resident.get(gpu, 0)
            if here < n_blocks:
                return total + here
        total += n_blocks
    return total


def biggest_cached(stretches: Iterable[Stretch], gpus: Collection[GpuId]) -> Stretch | None:
    """The node on a prompt's path of which some GPU caches the most blocks, and that number; None if nothing is."""
    best: Stretch | None = None
    most = 0
    for node, shared in stretches:
        if shared <= most:
            continue
        n_blocks = 0 if node.intended.keys().isdisjoint(gpus) else shared
        for gpu, here in node.resident.items():
            if n_blocks < shared and n_blocks < here and gpu in gpus:
                n_blocks = min(here, shared)
        if n_blocks > most:
            best, most = (node, n_blocks), n_blocks
    return best


def computed_blocks(stretches: Iterable[Stretch], gpu: GpuId) -> int:
    """Leading blocks of a matched prompt that the GPU has, or that what runs there now computes."""
    total = 0
    for node, n_blocks in stretches:
        if gpu not in node.active:
            here = node.resident.get(gpu, 0)
            if here < n_blocks:
                return total + here
        total += n_blocks
    return total


def reported_blocks(stretches: Sequence[Stretch]) -> Counts:
    """Leading blocks of a matched prompt that each GPU has."""
    found: Counts = {}
    for gpu in stretches[0][0].resident if stretches else ():
        total = 0
        for node, n_blocks in stretches:
            here = min(node.resident.get(gpu, 0), n_blocks)
            total += here
            if here < n_blocks:
                break
        found[gpu] = total
    return found


def changed(counts: Counts, gpu: GpuId, count: int) -> Counts:
    """The dict with this count: the same one, unless it is or becomes empty."""
    if count > 0:
        if not counts:
            return {gpu: count}
        counts[gpu] = count
        return counts
    assert count == 0, f"{gpu}: a count fell to {count}"
    return without(counts, gpu) if gpu in counts else counts


def without(counts: Counts, gpu: GpuId) -> Counts:
    """The dict without this count, which is in it: the same one, unless it becomes empty."""
    if len(counts) == 1:
        return _NONE
    del counts[gpu]
    return counts


def copied(counts: Counts) -> Counts:
    """A dict of its own with the same counts."""
    return dict(counts) if counts else _NONE


def shared_blocks(own: Sequence[BlockKey], at: int, keys: Sequence[BlockKey], depth: int) -> int:
    """How many of a node's blocks from `at` on are those of a prompt from `depth` on. O(log blocks)."""
    low, high = 0, min(len(own) - at, len(keys) - depth)
    if own[at + high - 1] == keys[depth + high - 1]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if own[at + middle - 1] == keys[depth + middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def depth_after(node: Node | None, key: BlockKey | None) -> int:
    """Blocks in the chain up to and with `key`, a block of `node`."""
    if node is None or key is None:
        return 0
    return node.end if node.keys[-1] == key else node.start + node.keys.index(key) + 1


def walk(children: Children, keys: Sequence[BlockKey], depth: int) -> list[Stretch]:
    """The part of a prompt that is known from `depth` on, where it goes on with one of `children`."""
    stretches: list[Stretch] = []
    n_keys = len(keys)
    while depth < n_keys and (node := children.get(keys[depth])) is not None:
        own = node.keys
        end = depth + len(own)
        if end > n_keys or own[-1] != keys[end - 1]:
            stretches.append((node, shared_blocks(own, 0, keys, depth)))
            break
        stretches.append((node, end - depth))
        children, depth = node.children, end
    return stretches

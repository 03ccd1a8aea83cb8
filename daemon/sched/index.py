"""What every GPU caches: a forest of block chains, each stretch of blocks a node (paper, section 3.2).

Three facts about a node and a GPU are kept apart. *Resident* is what the engine reported: so many leading blocks of
the node are in its cache. *Intended* counts the requests on their way to the GPU that will compute the node. *Active*
counts the requests running there that hold its blocks, which therefore cannot be evicted.

A node is found by hashing, not by walking: every block's key leads to its node, and since a known block's ancestors
are known too, the deepest known block of a prompt is found by binary search.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.mean import Mean

Counts = dict[GpuId, int]


class Node:
    """A stretch of blocks that every prompt below it shares. Zero counts are absent from its dicts."""

    __slots__ = ("active", "children", "intended", "keys", "outputs", "parent", "released", "resident", "start", "uses")

    def __init__(self, keys: list[BlockKey], parent: "Node | None", start: int) -> None:
        self.keys = keys
        self.parent = parent
        self.children: dict[BlockKey, Node] = {}
        self.start = start
        """Blocks before this node in its chain."""
        self.resident: Counts = {}
        """Leading blocks of this node in a GPU's cache. Engines evict a chain from its end, so a prefix stays."""
        self.intended: Counts = {}
        self.active: Counts = {}
        self.uses: Counts = {}
        """Requests within the window that were sent to a GPU and pass through this node (N_j of Algorithm 2)."""
        self.released: Counts = {}
        """On a GPU where it is resident and not active: the tick at which it was last let go."""
        self.outputs: Mean | None = None
        """Tokens of the answers to prompts that pass through this node."""

    def path(self) -> "Iterator[Node]":
        """This node and its ancestors, deepest first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


class Stretch(NamedTuple):
    """A node that a prompt passes through, and how many of its blocks the prompt shares."""

    node: Node
    n_blocks: int


class Victim(NamedTuple):
    """Blocks that a GPU would evict next."""

    node: Node
    n_blocks: int


class PrefixIndex:
    """The forest, for engines of one model. Matching reads; every other method says what it writes."""

    def __init__(self) -> None:
        self._node_of: dict[BlockKey, Node] = {}
        self._resident_blocks: Counts = {}
        self._active_blocks: Counts = {}
        self._tick = 0
        self._released_at: dict[GpuId, dict[int, dict[Node, None]]] = {}
        """Per GPU, what is evictable, oldest release first (dicts keep insertion order, and ticks only grow)."""

    def __len__(self) -> int:
        """Blocks indexed."""
        return len(self._node_of)

    def resident_blocks(self, gpu: GpuId) -> int:
        """Blocks in the GPU's cache."""
        return self._resident_blocks.get(gpu, 0)

    def active_blocks(self, gpu: GpuId) -> int:
        """Indexed blocks that running requests hold on the GPU, each counted once however many hold it."""
        return self._active_blocks.get(gpu, 0)

    # --- reading ---

    def match(self, keys: Sequence[BlockKey]) -> list[Stretch]:
        """The known part of a prompt, first stretch first. O(log blocks + nodes on the path)."""
        depth = self._known_depth(keys)
        if depth == 0:
            return []
        path = list(self._node_of[keys[depth - 1]].path())
        return [Stretch(node, min(depth - node.start, len(node.keys))) for node in reversed(path)]

    def _known_depth(self, keys: Sequence[BlockKey]) -> int:
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high + 1) // 2
            if keys[middle - 1] in self._node_of:
                low = middle
            else:
                high = middle - 1
        return low

    @staticmethod
    def cached_blocks(stretches: Iterable[Stretch], gpu: GpuId) -> int:
        """Leading blocks of a matched prompt that the GPU has, or will have once all that was sent there has run."""
        return _leading(stretches, lambda node: gpu in node.intended, gpu)

    @staticmethod
    def computed_blocks(stretches: Iterable[Stretch], gpu: GpuId) -> int:
        """Leading blocks of a matched prompt that the GPU has, or that what runs there now computes."""
        return _leading(stretches, lambda node: gpu in node.active, gpu)

    @staticmethod
    def held_blocks(stretches: Iterable[Stretch], gpu: GpuId) -> int:
        """Blocks of a matched prompt that running requests hold on the GPU already."""
        return sum(stretch.n_blocks for stretch in stretches if gpu in stretch.node.active)

    @staticmethod
    def biggest_cached(stretches: Iterable[Stretch], gpus: Collection[GpuId]) -> Stretch | None:
        """The node on a prompt's path of which some GPU caches the most blocks, and that number; None if nothing is."""
        best: Stretch | None = None
        for stretch in stretches:
            n_blocks = max((cached_of(stretch, gpu) for gpu in gpus), default=0)
            if n_blocks > (best.n_blocks if best else 0):
                best = Stretch(stretch.node, n_blocks)
        return best

    def victims(self, gpu: GpuId, n_blocks: int, keep: Iterable[Stretch] = ()) -> Iterator[Victim]:
        """What the GPU's LRU would evict to free `n_blocks`, first victim first; never a node of `keep`."""
        kept = {stretch.node for stretch in keep}
        for nodes in self._released_at.get(gpu, {}).values():
            for node in sorted(nodes, key=_by_depth, reverse=True):
                if node in kept:
                    continue
                taken = min(node.resident[gpu], n_blocks)
                yield Victim(node, taken)
                n_blocks -= taken
                if n_blocks <= 0:
                    return

    def is_resident(self, leaf: Node, gpu: GpuId) -> bool:
        """Whether the whole chain that ends with `leaf` is in the GPU's cache."""
        return leaf.resident.get(gpu, 0) == len(leaf.keys)

    # --- growing and shrinking ---

    def insert(self, keys: Sequence[BlockKey]) -> Node | None:
        """Make a node end exactly where this prompt's blocks end, and return it; None for a prompt of no full block."""
        if not keys:
            return None
        depth = self._known_depth(keys)
        node = self._node_of[keys[depth - 1]] if depth else None
        if node is not None and depth < node.start + len(node.keys):
            node = self._split(node, depth - node.start)
        return self._append(node, keys[depth:]) if depth < len(keys) else node

    def _append(self, parent: Node | None, keys: Sequence[BlockKey]) -> Node:
        start = parent.start + len(parent.keys) if parent else 0
        node = Node(list(keys), parent, start)
        if parent is not None:
            parent.children[node.keys[0]] = node
        for key in node.keys:
            self._node_of[key] = node
        return node

    def _split(self, lower: Node, cut: int) -> Node:
        """Give the first `cut` blocks of a node to a new node above it.

        The lower part keeps its identity: whoever holds a node as the end of a request's chain still does.
        """
        upper = Node(lower.keys[:cut], lower.parent, lower.start)
        if lower.parent is not None:
            lower.parent.children[upper.keys[0]] = upper
        lower.keys, lower.parent, lower.start = lower.keys[cut:], upper, lower.start + cut
        upper.children[lower.keys[0]] = lower
        for key in upper.keys:
            self._node_of[key] = upper
        upper.intended, upper.active, upper.uses = dict(lower.intended), dict(lower.active), dict(lower.uses)
        upper.outputs = lower.outputs.copy() if lower.outputs else None
        for gpu, n_blocks in lower.resident.items():
            upper.resident[gpu] = min(n_blocks, cut)
        for gpu, tick in lower.released.items():
            self._mark_released(upper, gpu, tick)
        for gpu, n_blocks in list(lower.resident.items()):
            if n_blocks <= cut:
                del lower.resident[gpu]
                self._unmark_released(lower, gpu)
            else:
                lower.resident[gpu] = n_blocks - cut
        self._prune(lower)
        return upper

    def _prune(self, node: Node | None) -> None:
        """Forget blocks that no GPU caches or will cache and that nothing in the window used (paper, section 3.2)."""
        while node is not None and not (node.children or node.intended or node.active or node.uses):
            kept = max(node.resident.values(), default=0)
            for key in node.keys[kept:]:
                del self._node_of[key]
            if kept:
                del node.keys[kept:]
                return
            if node.parent is not None:
                del node.parent.children[node.keys[0]]
            node = node.parent

    # --- what engines report ---

    def store(self, gpu: GpuId, parent: BlockKey | None, keys: Sequence[BlockKey]) -> None:
        """The GPU now caches `keys`, which follow the block `parent` (None: the first of a prompt)."""
        if not keys:
            return
        above = self._node_of.get(parent) if parent is not None else None
        if parent is not None and above is None:
            return  # its parent is not known to be anywhere, so no prompt can match it
        first = _depth_after(above, parent)
        if keys[-1] not in self._node_of:
            self._extend(above, parent, keys)
        for node in self._node_of[keys[-1]].path():
            if node.start + len(node.keys) <= first:
                break
            n_blocks = min(first + len(keys) - node.start, len(node.keys))
            self._set_resident(node, gpu, max(n_blocks, node.resident.get(gpu, 0)))

    def _extend(self, above: Node | None, parent: BlockKey | None, keys: Sequence[BlockKey]) -> None:
        known = self._known_depth(keys)
        if known:
            above, parent = self._node_of[keys[known - 1]], keys[known - 1]
        cut = _depth_after(above, parent) - above.start if above is not None else 0
        if above is not None and cut < len(above.keys):
            above = self._split(above, cut)
        self._append(above, keys[known:])

    def remove(self, gpu: GpuId, key: BlockKey) -> None:
        """The GPU evicted a block, and so whatever it had behind it."""
        node = self._node_of.get(key)
        if node is None or gpu not in node.resident:
            return
        last = node.resident[gpu] - 1
        offset = last if node.keys[last] == key else node.keys.index(key)  # evicted from the end, as a rule
        if offset <= last:
            self._set_resident(node, gpu, offset)
            self._prune(node)

    def set_chain_resident(self, leaf: Node, gpu: GpuId) -> None:
        """The GPU has computed the whole chain that ends with `leaf`: its first token shows it."""
        for node in leaf.path():
            self._set_resident(node, gpu, len(node.keys))

    def _set_resident(self, node: Node, gpu: GpuId, n_blocks: int) -> None:
        before = node.resident.get(gpu, 0)
        self._resident_blocks[gpu] = self._resident_blocks.get(gpu, 0) + n_blocks - before
        if n_blocks == 0:
            node.resident.pop(gpu, None)
            self._unmark_released(node, gpu)
            return
        node.resident[gpu] = n_blocks
        if before == 0 and gpu not in node.active:
            self._mark_released(node, gpu, self._tick)

    def clear(self, gpu: GpuId) -> None:
        """The GPU's cache is empty."""
        for node in dict.fromkeys(self._node_of.values()):
            if gpu in node.resident:
                self._set_resident(node, gpu, 0)
                if not node.children:
                    self._prune(node)

    # --- what requests do ---

    def intend(self, leaf: Node, gpu: GpuId) -> None:
        """A request that will compute this chain is on its way to the GPU."""
        for node in leaf.path():
            _add(node.intended, gpu, 1)

    def fulfil(self, leaf: Node, gpu: GpuId) -> None:
        """Take back one `intend`: the chain has been computed, or never will be."""
        for node in leaf.path():
            _add(node.intended, gpu, -1)
        self._prune(leaf)

    def acquire(self, leaf: Node, gpu: GpuId) -> None:
        """A request that holds this chain runs on the GPU: nothing of it can be evicted."""
        for node in leaf.path():
            if _add(node.active, gpu, 1) == 1:
                self._active_blocks[gpu] = self._active_blocks.get(gpu, 0) + len(node.keys)
                self._unmark_released(node, gpu)

    def release(self, leaf: Node, gpu: GpuId) -> None:
        """Take back one `acquire`. What nobody holds any more becomes the GPU's most recently used."""
        self._tick += 1
        for node in leaf.path():
            if _add(node.active, gpu, -1) == 0:
                self._active_blocks[gpu] -= len(node.keys)
                if gpu in node.resident:
                    self._mark_released(node, gpu, self._tick)
        self._prune(leaf)

    def use(self, leaf: Node, gpu: GpuId) -> None:
        """Count a request of the window on its chain."""
        for node in leaf.path():
            _add(node.uses, gpu, 1)

    def disuse(self, leaf: Node, gpu: GpuId) -> None:
        """Take back one `use`: the request left the window."""
        for node in leaf.path():
            _add(node.uses, gpu, -1)
        self._prune(leaf)

    def _mark_released(self, node: Node, gpu: GpuId, tick: int) -> None:
        self._unmark_released(node, gpu)
        node.released[gpu] = tick
        self._released_at.setdefault(gpu, {}).setdefault(tick, {})[node] = None

    def _unmark_released(self, node: Node, gpu: GpuId) -> None:
        tick = node.released.pop(gpu, None)
        if tick is not None:
            nodes = self._released_at[gpu][tick]
            del nodes[node]
            if not nodes:
                del self._released_at[gpu][tick]


def _add(counts: Counts, gpu: GpuId, change: int) -> int:
    count = counts.get(gpu, 0) + change
    assert count >= 0, f"{gpu}: a count fell to {count}"
    if count:
        counts[gpu] = count
    else:
        del counts[gpu]
    return count


def cached_of(stretch: Stretch, gpu: GpuId) -> int:
    """Blocks of one stretch that the GPU has, or will have once all that was sent there has run."""
    node, n_blocks = stretch
    return n_blocks if gpu in node.intended else min(node.resident.get(gpu, 0), n_blocks)


def _leading(stretches: Iterable[Stretch], is_whole: Callable[[Node], bool], gpu: GpuId) -> int:
    total = 0
    for node, n_blocks in stretches:
        here = n_blocks if is_whole(node) else min(node.resident.get(gpu, 0), n_blocks)
        total += here
        if here < n_blocks:
            break
    return total


def _by_depth(node: Node) -> int:
    return node.start


def _depth_after(node: Node | None, key: BlockKey | None) -> int:
    """Blocks in the chain up to and with `key`, a block of `node`."""
    if node is None or key is None:
        return 0
    return node.start + (len(node.keys) if node.keys[-1] == key else node.keys.index(key) + 1)

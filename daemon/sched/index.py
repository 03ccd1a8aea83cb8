"""What every GPU caches: a forest of block chains, each stretch of blocks a node (paper, section 3.2).

Three facts about a node and a GPU are kept apart. *Resident* is what the engine reported: so many leading blocks of
the node are in its cache. *Intended* counts the requests on their way to the GPU that will compute the node. *Active*
counts the requests running there that hold its blocks, which therefore cannot be evicted.

A prompt is matched node by node: a chain key stands for all blocks before it, so a node's last key tells whether the
prompt shares all of it, and a binary search how much of the last one. A node ends where chains part, or where a prompt
of the window does: once none does any more, what was one session's turns is one node.
"""

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.active import Active
from preble.daemon.sched.blocktable import BlockTable
from preble.daemon.sched.chains import (
    Stretch,
    biggest_cached,
    cached_blocks,
    cached_of,
    computed_and_held,
    depth_after,
    known_after,
    walk,
)
from preble.daemon.sched.evictable import Evictable, Orders
from preble.daemon.sched.node import Children, Node, OnGpu, is_end_of, is_tail

__all__ = ["Node", "PrefixIndex", "Stretch", "cached_of"]


class PrefixIndex:
    """The forest, for engines of one model. Matching reads; every other method says what it writes.

    It holds at most `max_blocks`, unless what waits and runs needs more. To make room it forgets chains that are only
    kept for their use in the window, then what some GPU let go longest ago: it knows less than is cached, never more.
    """

    def __init__(self, max_blocks: int = sys.maxsize) -> None:
        self._max_blocks = max_blocks
        self.roots: Children = {}
        self._n_blocks = 0
        self._table = BlockTable()
        self._uncached: OrderedDict[Node, None] = OrderedDict()
        """Nodes that at some time were kept for nothing but having been used, in that order."""
        self._active = Active()
        self._orders = Orders()
        self._matched: tuple[Sequence[BlockKey], list[Stretch]] | None = None
        """The last match: a request is matched several times before the forest changes its form."""
        self._computed: defaultdict[GpuId, dict[Node, tuple[int, int]]] = defaultdict(dict)
        """What was told of each GPU's chains since what it has or computes has changed."""

    def __len__(self) -> int:
        """Blocks indexed."""
        return self._n_blocks

    def resident_blocks(self, gpu: GpuId) -> int:
        """Blocks in the GPU's cache."""
        return self._orders.of(gpu).resident_blocks

    def active_blocks(self, gpu: GpuId) -> int:
        """Indexed blocks that running requests hold on the GPU, each counted once however many hold it."""
        return self._active.blocks(gpu)

    # --- reading ---

    def match(self, keys: Sequence[BlockKey]) -> Sequence[Stretch]:
        """The known part of a prompt, first stretch first. O(nodes on the path + log blocks)."""
        if self._matched is not None and self._matched[0] is keys:
            return self._matched[1]
        stretches = walk(self.roots.get(keys[0]), keys, 0) if keys else []
        self._matched = keys, stretches
        return stretches

    cached_blocks = staticmethod(cached_blocks)
    biggest_cached = staticmethod(biggest_cached)

    def computed_and_held(self, leaf: Node | None, gpu: GpuId) -> tuple[int, int]:
        """Leading blocks of a chain that the GPU has, or that what runs there now computes; and those that it holds.

        It is asked of everything that waits, again and again.
        """
        if leaf is None:
            return 0, 0
        told = self._computed[gpu]
        found = told.get(leaf)
        if found is None:
            found = told[leaf] = computed_and_held(leaf, gpu)
        return found

    def evictable(self, gpu: GpuId) -> Evictable:
        """What the GPU may evict, always the same object. To be read, and told what else is counted on nodes."""
        return self._orders.of(gpu)

    def is_resident(self, leaf: Node, gpu: GpuId) -> bool:
        """Whether the whole chain that ends with `leaf` is in the GPU's cache."""
        return leaf.resident_on(gpu) == leaf.n_blocks

    # --- growing and shrinking ---

    def insert(self, keys: Sequence[BlockKey]) -> Node | None:
        """Make a node end exactly where this prompt's blocks end, and return it; None for a prompt of no full block."""
        if not keys:
            return None
        node, depth = None, 0
        if path := list(self.match(keys)):
            node, shared = path.pop()
            depth = node.start + shared
            if shared < node.n_blocks:
                node = self._split(node, shared)
            path.append((node, shared))
        if depth == len(keys):
            self._matched = keys, path
            return node
        leaf = self._append(node, keys[depth:])
        self._matched = keys, [*path, (leaf, leaf.n_blocks)]
        self._make_room()
        return leaf

    def _append(self, parent: Node | None, keys: Sequence[BlockKey]) -> Node:
        node = Node(parent, parent.end if parent else 0, list(keys))
        self._n_blocks += len(keys)
        self._matched = None
        if parent is None:
            self.roots[keys[0]] = node
        else:
            parent.adopt(node)
        return node

    def _split(self, lower: Node, cut: int) -> Node:
        """Give the first `cut` blocks of a node to a new node above it.

        The lower part keeps its identity: whoever holds a node as the end of a request's chain still does.
        """
        upper = Node(lower.parent, lower.start, lower.keys[:cut])
        lower.set_keys(lower.keys[cut:])
        self._table.split(lower, upper)
        self._matched = None
        if lower.parent is None:
            self.roots[upper.keys[0]] = upper
        else:
            lower.parent.replace(lower, upper.keys[0], upper)
        lower.parent, lower.start = upper, lower.start + cut
        upper.adopt(lower)
        upper.learn_from(lower)
        for here in list(lower.counted):
            above, order = here.split(upper, cut), self._orders.of(here.gpu)
            if here.active:
                self._active.split(above)
            if here.released:
                order.mark((above,), here.released)
            if not here.resident:
                order.unmark((here,))
            lower.leave_if_empty(here)
        self.prune(lower)
        return upper

    def _fold(self, lower: Node) -> None:
        """From this node up, make one of those of which each is but the end of the one above."""
        upper = lower.parent
        while upper is not None and is_end_of(upper, lower):
            self._matched = None
            self._uncached.pop(lower, None)
            for here in lower.counted:
                above = upper.counted_on(here.gpu)
                self._orders.of(here.gpu).join(above, here)
                self._computed[here.gpu].pop(upper, None)
                if here.active:
                    self._active.join(here)
            self._table.join(upper, lower)
            upper.take_in(lower)
            lower, upper = upper, upper.parent

    def prune(self, node: Node | None) -> None:
        """Forget blocks that no GPU caches or will cache and that nothing in the window used (paper, section 3.2)."""
        while node is not None and not node.n_blocks:
            node = node.parent
        while node is not None and not node.is_needed:
            kept = uses = 0
            for here in node.counted:
                kept, uses = max(kept, here.resident), uses + here.uses
            if uses:
                if not kept:
                    self._uncached[node] = None
                return
            if kept:
                if kept < node.n_blocks:
                    self._matched = None
                    self._n_blocks -= node.n_blocks - kept
                    self._table.shorten(node, kept)
                    node.set_keys(node.keys[:kept])
                return
            self._drop(node)
            node = node.parent

    def _drop(self, node: Node) -> None:
        """Take a node with nothing behind it out of the forest. It keeps its way up, for what is counted on it."""
        self._matched = None
        if node.parent is None:
            del self.roots[node.keys[0]]
        else:
            node.parent.disown(node)
        self._uncached.pop(node, None)
        self._n_blocks -= node.n_blocks
        self._table.drop(node)

    def _make_room(self) -> None:
        while self._n_blocks > self._max_blocks and (self._forget_uncached() or self._forget_oldest()):
            pass

    def _forget_uncached(self) -> bool:
        while self._uncached:
            node, _ = self._uncached.popitem(last=False)
            is_cached = any(here.resident for here in node.counted)
            if node.uses and not is_cached and not node.is_needed:
                self._drop(node)
                self.prune(node)
                return True
        return False

    def _forget_oldest(self) -> bool:
        oldest = self._orders.oldest()
        if oldest is None:
            return False
        node, gpu = oldest
        self._set_resident(node, gpu, 0)
        self.prune(node)
        return True

    # --- what engines report ---

    def store(self, gpu: GpuId, parent: BlockKey | None, keys: Sequence[BlockKey]) -> None:
        """The GPU now caches `keys`, which follow the block `parent` (None: the first of a prompt)."""
        if not keys:
            return
        above = self._table.find(parent) if parent is not None else None
        if parent is not None and above is None:
            return  # its parent is not known to be anywhere, so no prompt can match it
        first = depth_after(above, parent)
        node, known = known_after(self.roots, above, first, keys)
        if known < len(keys):
            node = self._extend(gpu, node, first + known, keys[known:])
        while node is not None and node.end > first:
            n_blocks = min(first + len(keys) - node.start, node.n_blocks)
            self._set_resident(node, gpu, max(n_blocks, node.resident_on(gpu)))
            node = node.parent
        self._make_room()

    def _extend(self, gpu: GpuId, node: Node | None, depth: int, keys: Sequence[BlockKey]) -> Node:
        """Put new blocks behind the first `depth` of the chain that goes through `node`."""
        if node is not None and depth < node.end:
            node = self._split(node, depth - node.start)
        elif node is not None and is_tail(node, gpu):
            self._matched = None
            self._n_blocks += len(keys)
            node.lengthen(keys)
            order, here = self._orders.of(gpu), node.counted_on(gpu)
            order.unmark((here,))
            order.mark((here,))
            return node
        return self._append(node, keys)

    def remove(self, gpu: GpuId, *keys: BlockKey) -> None:
        """The GPU evicted these blocks, and so whatever it had behind them."""
        at = 0
        while at < len(keys):
            key = keys[at]
            at += 1
            node = self._table.find(key)
            if node is None or not (resident := node.resident_on(gpu)):
                continue
            left = resident - 1
            if node.keys[left] != key:
                left = min(left + 1, node.keys.index(key))
            while left and at < len(keys) and node.keys[left - 1] == keys[at]:  # evicted from the end, as a rule
                left -= 1
                at += 1
            if left < resident:
                self._set_resident(node, gpu, left)
                self.prune(node)

    def set_chain_resident(self, leaf: Node, gpu: GpuId) -> None:
        """The GPU has computed the whole chain that ends with `leaf`: its first token shows it."""
        for node in leaf.path():
            self._set_resident(node, gpu, node.n_blocks)

    def _set_resident(self, node: Node, gpu: GpuId, n_blocks: int) -> None:
        here = node.on(gpu) or node.join(gpu)
        before = here.resident
        if n_blocks == before:
            return
        self._computed.pop(gpu, None)
        here.resident = n_blocks
        self._table.report(node, n_blocks)
        order = self._orders.of(gpu)
        order.resident_blocks += n_blocks - before
        if n_blocks == 0:
            order.unmark((here,))
            node.leave_if_empty(here)
        elif here.released:
            order.touch((here,))
        elif not here.active:
            order.mark((here,))

    def clear(self, gpu: GpuId) -> None:
        """The GPU's cache is empty."""
        order = self._orders.of(gpu)
        cleared = [*order, *self._active.nodes(gpu)]
        order.clear()
        self._computed.pop(gpu, None)
        for here in cleared:
            here.resident = here.released = 0
            here.node.leave_if_empty(here)
        for node in [here.node for here in cleared]:
            if node.n_blocks and not node.is_needed:
                self.prune(node)

    # --- what requests do ---

    def send(self, leaf: Node, gpu: GpuId) -> None:
        """A request of the window that will compute this chain is on its way to the GPU."""
        self.use(leaf, gpu, on_its_way=1)

    def use(self, leaf: Node, gpu: GpuId, on_its_way: int = 0) -> None:
        """Count a request of the window on its chain, and of these one that is on its way, or none."""
        self._orders.clock.window_ticks += 1
        order = self._orders.of(gpu)
        front_tick = order.front_tick
        at_front = []
        below = None
        node: Node | None = leaf
        while node is not None:
            here = node.sole or node.gpus.get(gpu)
            if here is None or here.gpu != gpu:
                here = node.join(gpu)
            here.uses += 1
            here.intended += on_its_way
            if 0 < here.released <= front_tick:
                at_front.append(here)
            if below is not None:
                below.above = here
            below, node = here, node.parent
        order.touch(at_front)

    def disuse(self, leaf: Node, gpu: GpuId) -> None:
        """Take back one `use`: the request left the window."""
        self._orders.clock.window_ticks -= 1
        order = self._orders.of(gpu)
        front_tick = order.front_tick
        at_front = []
        here: OnGpu | None = leaf.counted_on(gpu)
        while here is not None:
            assert here.uses, f"no request of the window was sent to {gpu}"
            here.uses -= 1
            if 0 < here.released <= front_tick:
                at_front.append(here)
            elif not here.uses:
                here.node.leave_if_empty(here)
            here = here.above
        order.touch(at_front)
        self._fold(leaf)
        self.prune(leaf)

    def fulfil(self, leaf: Node, gpu: GpuId) -> None:
        """A request is not on its way any more: the chain never will be computed for it."""
        here: OnGpu | None = leaf.counted_on(gpu)
        while here is not None:
            assert here.intended, f"nothing is on its way to {gpu}"
            here.intended -= 1
            if not here.intended:
                here.node.leave_if_empty(here)
            here = here.above
        self.prune(leaf)

    def acquire(self, leaf: Node, gpu: GpuId) -> None:
        """A request that was on its way and holds this chain runs on the GPU: nothing of it can be evicted."""
        self._computed.pop(gpu, None)
        self._orders.of(gpu).unmark(self._active.hold(leaf, gpu))

    def release(self, leaf: Node, gpu: GpuId) -> None:
        """It has ended: take back its `acquire`, and that it was on its way.

        What nobody holds any more becomes the GPU's most recently used.
        """
        self._computed.pop(gpu, None)
        self._orders.advance()
        self._orders.of(gpu).mark(self._active.let_go(leaf, gpu))
        self.prune(leaf)

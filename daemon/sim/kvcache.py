"""The KV blocks of one modelled engine: which prompts' blocks are cached, who holds them, and what is evicted next.

Blocks live in nodes, stretches of a chain that every request below shares, so that holding and letting go of a long
prompt costs as much as it has nodes. Work per block is done only when blocks are stored, evicted, or cut off into a
node of their own. As in vLLM, a block is evicted when nobody holds it, least recently let go first, and the blocks of
one request from its end; free blocks that cache nothing are used before any is evicted.
"""

from collections import OrderedDict
from collections.abc import Sequence

from preble.daemon.flow.events import BlocksRemoved, BlocksStored, KvChange
from preble.daemon.ids import BlockKey


class Chain:
    """A node: a stretch of cached blocks, and by its parents the whole chain up to its last block."""

    __slots__ = ("holders", "keys", "n_children", "parent", "start")

    def __init__(self, keys: list[BlockKey], parent: "Chain | None") -> None:
        self.keys = keys
        self.parent = parent
        self.start = parent.end if parent else 0
        """Blocks before this node."""
        self.holders = 0
        """Requests that end here, and children that are held."""
        self.n_children = 0

    @property
    def end(self) -> int:
        """Blocks in the chain up to and with this node."""
        return self.start + len(self.keys)


class KvCache:
    """`n_blocks` blocks, each of them free, cached and unheld, cached and held, or private to one request.

    What is stored and evicted is noted in `changes`, for the caller to take.
    """

    def __init__(self, n_blocks: int) -> None:
        self.n_blocks = n_blocks
        self.changes: list[KvChange] = []
        self._empty = n_blocks
        """Free blocks that cache nothing."""
        self._unheld = 0
        """Cached blocks that nobody holds."""
        self._node_of: dict[BlockKey, Chain] = {}
        self._evictable: OrderedDict[Chain, None] = OrderedDict()
        """Unheld nodes, first victim first."""

    @property
    def n_available(self) -> int:
        """Blocks that can be had, if cached ones are evicted."""
        return self._empty + self._unheld

    @property
    def n_cached(self) -> int:
        """Blocks that can be hit, held or not."""
        return len(self._node_of)

    @property
    def n_unheld(self) -> int:
        """Cached blocks that nobody holds."""
        return self._unheld

    @property
    def n_held(self) -> int:
        """Cached blocks that somebody holds."""
        return len(self._node_of) - self._unheld

    # --- finding ---

    def n_hit(self, keys: Sequence[BlockKey], limit: int) -> int:
        """How many of the first `limit` blocks are cached."""
        low, high = 0, min(limit, len(keys))
        while low < high:  # whatever is cached has its whole chain cached, so depth can be searched
            middle = (low + high + 1) // 2
            if keys[middle - 1] in self._node_of:
                low = middle
            else:
                high = middle - 1
        return low

    def n_unheld_of(self, keys: Sequence[BlockKey], n_hit: int) -> int:
        """How many of the first `n_hit` blocks, all cached, are available to others until they are held."""
        if not n_hit:
            return 0
        node: Chain | None = self._node_of[keys[n_hit - 1]]
        while node is not None and not node.holders:
            node = node.parent
        return max(0, n_hit - (node.end if node is not None else 0))

    # --- holding ---

    def hold(self, keys: Sequence[BlockKey], n_hit: int) -> Chain | None:
        """Hold the first `n_hit` blocks, all cached; None for none."""
        if not n_hit:
            return None
        chain = self._node_ending_at(keys[n_hit - 1], n_hit)
        self._hold(chain)
        return chain

    def _hold(self, chain: Chain) -> None:
        node: Chain | None = chain
        while node is not None:
            node.holders += 1
            if node.holders > 1:
                return
            del self._evictable[node]
            self._unheld -= len(node.keys)
            node = node.parent

    def let_go(self, chain: Chain | None, n_private: int) -> None:
        """Give back a request's blocks: `n_private` that cache nothing, and its hold on its chain."""
        self._empty += n_private
        node = chain
        while node is not None:
            node.holders -= 1
            if node.holders:
                return
            self._evictable[node] = None
            self._unheld += len(node.keys)
            node = node.parent

    def _node_ending_at(self, key: BlockKey, depth: int) -> Chain:
        """The node whose last block is this cached one, of which there are `depth` up to it; made if there is none."""
        lower = self._node_of[key]
        if lower.end == depth:
            return lower
        cut = depth - lower.start
        upper = Chain(lower.keys[:cut], lower.parent)
        for each in upper.keys:
            self._node_of[each] = upper
        del lower.keys[:cut]
        lower.start, lower.parent, upper.n_children = depth, upper, 1
        if lower.holders:
            upper.holders = 1
        else:  # it is evicted after the lower part, which stays where it is in the line
            self._evictable[upper] = None
        return upper

    # --- using up ---

    def take(self, n_blocks: int) -> None:
        """Make `n_blocks` private to a request, evicting where nothing else is left."""
        assert n_blocks <= self.n_available, f"{n_blocks} blocks are wanted and {self.n_available} can be had"
        evicted = n_blocks - self._empty
        if evicted <= 0:
            self._empty -= n_blocks
            return
        self._empty = 0
        self._unheld -= evicted
        gone: list[BlockKey] = []
        while evicted:
            node = next(iter(self._evictable))
            assert not node.n_children, "a block is evicted from the end of a chain"
            kept = max(0, len(node.keys) - evicted)
            victims = node.keys[kept:]
            victims.reverse()
            del node.keys[kept:]
            for key in victims:
                del self._node_of[key]
            gone += victims
            evicted -= len(victims)
            if not kept:
                del self._evictable[node]
                if node.parent is not None:
                    node.parent.n_children -= 1
        self.changes.append(BlocksRemoved(keys=tuple(gone)))

    def store(self, chain: Chain | None, keys: Sequence[BlockKey]) -> Chain | None:
        """Cache blocks that are private to the holder of `chain` and follow it; returns the chain it holds now.

        Of blocks that have been cached meanwhile the cached ones are held instead, and its own are free again.
        """
        known = self.n_hit(keys, len(keys))
        if known:
            shared = self._node_ending_at(keys[known - 1], (chain.end if chain else 0) + known)
            self._hold(shared)
            self.let_go(chain, known)
            chain, keys = shared, keys[known:]
        if not keys:
            return chain
        parent_key = chain.keys[-1] if chain else None
        if chain is not None and chain.holders == 1 and not chain.n_children:
            node = chain
        else:
            node = Chain([], chain)
            node.holders = 1  # instead of its hold on the parent, which the parent now has from this child
            if chain is not None:
                chain.n_children += 1
        node.keys += keys
        for key in keys:
            self._node_of[key] = node
        self.changes.append(BlocksStored(keys=tuple(keys), parent=parent_key))
        return node

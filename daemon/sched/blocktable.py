"""Which node each block of the index is in: how what engines report by key is found in the forest."""

from collections import deque
from collections.abc import Sequence

from preble.daemon.ids import BlockKey
from preble.daemon.sched.node import Node

_SWEEP = 64


class BlockTable:
    """Keys of blocks and their nodes.

    What a node had when it was dropped is forgotten a little with each change, as a GPU that dies takes very many
    blocks with it: `_SWEEP` keys, and two for each new key, so that none stay for long.
    """

    def __init__(self) -> None:
        self._n_blocks = 0
        self._node_of: dict[BlockKey, Node] = {}
        self._dropped: deque[tuple[Node, list[BlockKey]]] = deque()

    def __len__(self) -> int:
        """Blocks, without those of dropped nodes."""
        return self._n_blocks

    def find(self, key: BlockKey) -> Node | None:
        """The node in which the block is."""
        node = self._node_of.get(key)
        return node if node is not None and node.keys else None

    def lengthen(self, node: Node, keys: Sequence[BlockKey]) -> None:
        """These blocks are new, and follow those of the node."""
        node.keys += keys
        self._n_blocks += len(keys)
        self._node_of.update(dict.fromkeys(keys, node))
        self._sweep(_SWEEP + 2 * len(keys))

    def shorten(self, node: Node, n_blocks: int) -> None:
        """Only so many leading blocks are left of the node."""
        for key in node.keys[n_blocks:]:
            del self._node_of[key]
        self._n_blocks -= len(node.keys) - n_blocks
        del node.keys[n_blocks:]

    def split(self, lower: Node, upper: Node, cut: int) -> None:
        """The first `cut` blocks of one node are another's now."""
        upper.keys, lower.keys = lower.keys[:cut], lower.keys[cut:]
        self._node_of.update(dict.fromkeys(upper.keys, upper))

    def drop(self, node: Node) -> None:
        """None of its blocks are left."""
        self._n_blocks -= len(node.keys)
        self._dropped.append((node, node.keys))
        node.keys = []
        self._sweep(_SWEEP)

    def _sweep(self, n_keys: int) -> None:
        while self._dropped and n_keys > 0:
            node, keys = self._dropped[0]
            n_left = max(0, len(keys) - n_keys)
            for key in keys[n_left:]:
                if self._node_of.get(key) is node:  # else it has come again since
                    del self._node_of[key]
            n_keys -= len(keys) - n_left
            del keys[n_left:]
            if not keys:
                self._dropped.popleft()

"""Which node each reported block of the index is in: how what engines report by key is found in the forest."""

from collections import deque

from preble.daemon.ids import BlockKey
from preble.daemon.sched.node import Node

_SWEEP = 64


class BlockTable:
    """Keys of blocks and their nodes: of each node the `reported` leading ones.

    What dropped nodes had is forgotten as new blocks are reported, two keys for each and `_SWEEP` more: a GPU that dies
    takes very many blocks with it, and everybody would wait.
    """

    def __init__(self) -> None:
        self._node_of: dict[BlockKey, Node] = {}
        self._dropped: deque[tuple[Node, list[BlockKey]]] = deque()

    def find(self, key: BlockKey) -> Node | None:
        """The node in which the block is, if it is in any and has been reported."""
        node = self._holder(key)
        return node if node is not None and node.keys else None

    def _holder(self, key: BlockKey) -> Node | None:
        node = self._node_of.get(key)
        if node is None or node.part_of is None:
            return node
        while node.part_of is not None:
            node = node.part_of
        self._node_of[key] = node
        return node

    def report(self, node: Node, n_blocks: int) -> None:
        """At least so many leading blocks of the node have been reported."""
        if n_blocks > node.reported:
            keys = node.keys[node.reported : n_blocks]
            self._node_of.update(dict.fromkeys(keys, node))
            node.reported = n_blocks
            self._sweep(_SWEEP + 2 * len(keys))

    def split(self, lower: Node, upper: Node) -> None:
        """The leading blocks of one node are another's now."""
        upper.reported = min(lower.reported, len(upper.keys))
        lower.reported -= upper.reported
        self._node_of.update(dict.fromkeys(upper.keys[: upper.reported], upper))

    def join(self, upper: Node, lower: Node) -> None:
        """The blocks of one node are to be the last of another. They are found through it: to touch each takes long."""
        lower.part_of = upper
        upper.reported += lower.reported

    def shorten(self, node: Node, n_blocks: int) -> None:
        """Only so many leading blocks will be left of the node."""
        for key in node.keys[n_blocks : node.reported]:
            del self._node_of[key]
        node.reported = min(node.reported, n_blocks)

    def drop(self, node: Node) -> None:
        """None of its blocks are left: it gives its list of them away."""
        keys = node.drop_keys()
        if node.reported:
            del keys[node.reported :]
            self._dropped.append((node, keys))

    def _sweep(self, n_keys: int) -> None:
        while self._dropped and n_keys > 0:
            node, keys = self._dropped[0]
            n_left = max(0, len(keys) - n_keys)
            for key in keys[n_left:]:
                if self._holder(key) is node:  # else it has come again since
                    del self._node_of[key]
            n_keys -= len(keys) - n_left
            del keys[n_left:]
            if not keys:
                self._dropped.popleft()

"""Prefixes that are to stay in GPUs' caches: whatever would evict one is sure to have it computed again."""

from collections.abc import Sequence

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.index import Node, PrefixIndex


class Pinnings:
    """Those of one model. What is pinned stays in the index, be it cached or not."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._leaves: dict[tuple[GpuId, BlockKey], Node] = {}

    def pin(self, gpu: GpuId, keys: Sequence[BlockKey]) -> None:
        """From now on; nothing changes if it is so already."""
        if not keys or (gpu, keys[-1]) in self._leaves:
            return
        leaf = self._index.insert(keys)
        assert leaf is not None, "there are blocks"
        self._leaves[gpu, keys[-1]] = leaf
        self._count(leaf, gpu, 1)

    def unpin(self, gpu: GpuId, keys: Sequence[BlockKey]) -> None:
        """No longer; nothing changes if it was not."""
        leaf = self._leaves.pop((gpu, keys[-1]), None) if keys else None
        if leaf is not None:
            self._count(leaf, gpu, -1)
            self._index.prune(leaf)

    def _count(self, leaf: Node, gpu: GpuId, by: int) -> None:
        evictable = []
        for node in leaf.path():
            here = node.on(gpu) or node.join(gpu)
            here.pins += by
            if here.released:
                evictable.append(here)
            node.leave_if_empty(here)
        self._index.evictable(gpu).touch(evictable)

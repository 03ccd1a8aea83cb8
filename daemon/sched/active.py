"""What the requests that run on each GPU hold of its cache, which therefore cannot be evicted."""

from collections.abc import Collection

from preble.daemon.ids import GpuId
from preble.daemon.sched.node import Node, OnGpu


class Active:
    """The nodes of the chains of all running requests, each counted once however many hold it."""

    def __init__(self) -> None:
        self._nodes: dict[GpuId, dict[OnGpu, None]] = {}
        self._blocks: dict[GpuId, int] = {}

    def blocks(self, gpu: GpuId) -> int:
        """How many are held there."""
        return self._blocks.get(gpu, 0)

    def nodes(self, gpu: GpuId) -> Collection[OnGpu]:
        """In which these are."""
        return self._nodes.get(gpu, {}).keys()

    def hold(self, leaf: Node, gpu: GpuId) -> list[OnGpu]:
        """A request that holds this chain starts; of its nodes, those that could be evicted until now."""
        nodes = self._nodes.setdefault(gpu, {})
        evictable = []
        n_blocks = 0
        here: OnGpu | None = leaf.counted_on(gpu)
        while here is not None:
            here.active += 1
            if here.active == 1:
                n_blocks += here.node.n_blocks
                nodes[here] = None
                if here.released:
                    evictable.append(here)
            here = here.above
        self._blocks[gpu] = self._blocks.get(gpu, 0) + n_blocks
        return evictable

    def let_go(self, leaf: Node, gpu: GpuId) -> list[OnGpu]:
        """It has ended, and is not on its way any more either; of its nodes, those that can be evicted from now on."""
        nodes = self._nodes[gpu]
        evictable = []
        here: OnGpu | None = leaf.counted_on(gpu)
        while here is not None:
            assert here.active, f"nothing runs on {gpu}"
            here.active -= 1
            here.intended -= 1
            if not here.active:
                self._blocks[gpu] -= here.node.n_blocks
                del nodes[here]
                if here.resident:
                    evictable.append(here)
                else:
                    here.node.leave_if_empty(here)
            here = here.above
        return evictable

    def join(self, lower: OnGpu) -> None:
        """These blocks, which are held, have become the last of another node."""
        del self._nodes[lower.gpu][lower]

    def split(self, upper: OnGpu) -> None:
        """The first blocks of a node that is held have become one of their own."""
        self._nodes[upper.gpu][upper] = None

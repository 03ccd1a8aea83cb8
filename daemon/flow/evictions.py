"""Counts how often templates are evicted from GPUs' caches, by what engines report."""

from collections.abc import Callable, Mapping, Sequence

from preble.daemon.flow.call import Settled
from preble.daemon.flow.effects import Effect
from preble.daemon.flow.events import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EngineDown,
    EngineUp,
    Event,
    KvChange,
    KvReported,
)
from preble.daemon.ids import BlockKey, GpuId, ModelName, TenantName
from preble.daemon.templates.directory import VersionKey
from preble.daemon.templates.evictions import PrefixWatch

Residency = Callable[[ModelName, Sequence[BlockKey]], Mapping[GpuId, int]]
"""Of a prompt's leading blocks, how many each GPU has reported to cache."""


class EvictionCounter:
    """Watches the prefixes of templates that were used or warmed, each in the cache that it was used in."""

    def __init__(self, count: Callable[[VersionKey, TenantName], None]) -> None:
        """`count` is told of each eviction: of which version, and who used it there last."""
        self._count = count
        self._watch = PrefixWatch()
        self._epochs: dict[GpuId, int] = {}
        """Of the engines that are up."""
        self._residency: Residency | None = None

    def attach(self, residency: Residency) -> None:
        """`residency` tells where a prefix is that was not watched before. To be called once, before any use."""
        self._residency = residency

    def stepped(self, at_s: float, event: Event, effects: Sequence[Effect]) -> None:
        """The machine has taken a step."""
        match event:
            case KvReported(gpu=gpu, epoch=epoch, changes=changes) if self._epochs.get(gpu) == epoch:
                for change in changes:
                    self._take(gpu, change)
            case EngineUp(gpu=gpu, epoch=epoch):
                self._watch.emptied(gpu)
                self._epochs[gpu] = epoch
            case EngineDown(gpu=gpu):
                self._watch.emptied(gpu)
                self._epochs.pop(gpu, None)

    def _take(self, gpu: GpuId, change: KvChange) -> None:
        match change:
            case BlocksStored(keys=keys):
                self._watch.stored(gpu, keys)
            case BlocksRemoved(keys=keys):
                for version, tenants in self._watch.removed(gpu, keys).items():
                    for tenant in tenants:
                        self._count(version, tenant)
            case BlocksCleared():
                self._watch.emptied(gpu)

    def whole(self) -> Mapping[VersionKey, set[GpuId]]:
        """Where versions that were used or warmed are now, for some tenant."""
        return self._watch.whole()

    def ending_in(self, keys: Sequence[BlockKey]) -> VersionKey | None:
        """The version that was used or warmed whose prefix ends in a stretch of these blocks."""
        return self._watch.ending_in(keys)

    def settled(self, settled: Settled) -> None:
        """A request has ended: if it used a template, that is watched in the cache of the request."""
        named = settled.call.template
        if named is not None:
            keys = settled.block_keys[: named.blocks]
            self.used((named.template_id, named.version), settled.call.tenant, settled.call.model, keys)

    def used(self, version: VersionKey, tenant: TenantName, model: ModelName, keys: Sequence[BlockKey]) -> None:
        """A tenant used or warmed the prefix of a version, which is these blocks in its cache."""
        if not keys:
            return
        residency = self._residency
        assert residency is not None, "attach comes first"
        blocks = len(keys)
        self._watch.used(
            keys[-1],
            version,
            tenant,
            lambda: [gpu for gpu, there in residency(model, keys).items() if there >= blocks],
        )

"""When registered prefixes leave GPUs' caches, told by the last block of each.

Engines evict a chain from its end, so the last block is the first to go: it is there exactly while all of the prefix
is, and one look-up per block that an engine reports is enough, however many prefixes there are.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from preble.daemon.ids import BlockKey, GpuId, TenantName
from preble.daemon.templates.directory import VersionKey

_MOST_WATCHED = 20_000
"""Prefixes, each in the cache of one tenant or group; those used last longest ago are no longer watched."""


@dataclass(slots=True)
class _Watched:
    gpus: set[GpuId]
    """That have all of it."""
    users: dict[VersionKey, TenantName] = field(default_factory=dict)
    """Versions that are this prefix, and who used each last; the one used last is the last."""


class PrefixWatch:
    """Which of the prefixes that were used or warmed are whole on which GPUs."""

    def __init__(self, most: int = _MOST_WATCHED) -> None:
        self._watched: OrderedDict[BlockKey, _Watched] = OrderedDict()
        self._most = most

    def __len__(self) -> int:
        """Prefixes that are watched."""
        return len(self._watched)

    def used(
        self, last: BlockKey, version: VersionKey, tenant: TenantName, whole_on: Callable[[], Iterable[GpuId]]
    ) -> None:
        """A tenant used or warmed a version whose prefix ends with this block, in the cache that the block is of.

        `whole_on` tells where it is, and is asked if that is not known yet.
        """
        if last not in self._watched:
            self._watched[last] = _Watched(set(whole_on()))
            if len(self._watched) > self._most:
                self._watched.popitem(last=False)
        self._watched.move_to_end(last)
        users = self._watched[last].users
        users.pop(version, None)
        users[version] = tenant

    def ending_in(self, keys: Sequence[BlockKey]) -> VersionKey | None:
        """The version whose prefix ends in these blocks: of several the longest, then the one used last."""
        if self._watched.keys().isdisjoint(keys):
            return None
        last = next(key for key in reversed(keys) if key in self._watched)
        return next(reversed(self._watched[last].users))

    def whole(self) -> Mapping[VersionKey, set[GpuId]]:
        """Where each version is, for some tenant."""
        found: dict[VersionKey, set[GpuId]] = {}
        for watched in self._watched.values():
            for version in watched.users:
                found.setdefault(version, set()).update(watched.gpus)
        return found

    def stored(self, gpu: GpuId, keys: Iterable[BlockKey]) -> None:
        """A GPU reports to cache these blocks, and so whatever comes before them."""
        for key in self._watched.keys() & keys:
            self._watched[key].gpus.add(gpu)

    def removed(self, gpu: GpuId, keys: Iterable[BlockKey]) -> Mapping[VersionKey, list[TenantName]]:
        """A GPU reports to have evicted these blocks: versions that it had all of, and who used each of them last."""
        lost: dict[VersionKey, list[TenantName]] = {}
        for key in self._watched.keys() & keys:
            watched = self._watched[key]
            if gpu in watched.gpus:
                watched.gpus.discard(gpu)
                for version, tenant in watched.users.items():
                    lost.setdefault(version, []).append(tenant)
        return lost

    def emptied(self, gpu: GpuId) -> None:
        """Nobody knows of anything in a GPU's cache any more, which is no eviction."""
        for watched in self._watched.values():
            watched.gpus.discard(gpu)

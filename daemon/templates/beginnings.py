"""Which registered prefixes a prompt begins with, by the keys of its blocks: whatever salt those have."""

from collections.abc import Iterator, Sequence

from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sched.blocks import content_of
from preble.daemon.templates.directory import Owner, VersionKey

_Group = tuple[ModelName, Owner, int]
"""Of prefixes that have their first block in common, what that says."""


class Beginnings:
    """Prefixes by their first block, by how many blocks they have, and by what those say.

    A prompt takes a look-up for its first block, and one for each length of those of an owner's that begin with it.
    """

    def __init__(self) -> None:
        self._versions: dict[_Group, dict[int, dict[int, set[VersionKey]]]] = {}
        self._places: dict[tuple[ModelName, VersionKey], tuple[_Group, int, int]] = {}

    def put(
        self, model: ModelName, owner: Owner, version: VersionKey, root: BlockKey, keys: Sequence[BlockKey]
    ) -> None:
        """What can be cached of a version are the blocks with these keys, of which `root` is the key before the first.

        That takes the place of what was known of the version.
        """
        self._forget(model, version)
        if keys:
            group, length = (model, owner, content_of(root, keys[0], 1)), len(keys)
            content = content_of(root, keys[-1], length)
            self._versions.setdefault(group, {}).setdefault(length, {}).setdefault(content, set()).add(version)
            self._places[model, version] = group, length, content

    def find(
        self, model: ModelName, owner: Owner, root: BlockKey, keys: Sequence[BlockKey]
    ) -> Iterator[tuple[int, set[VersionKey]]]:
        """The owner's versions that a prompt begins with, and how many blocks they are: the longest first."""
        lengths = self._versions.get((model, owner, content_of(root, keys[0], 1)), {}) if keys else {}
        for length in sorted(lengths, reverse=True):
            if length <= len(keys):
                versions = lengths[length].get(content_of(root, keys[length - 1], length))
                if versions:
                    yield length, versions

    def _forget(self, model: ModelName, version: VersionKey) -> None:
        place = self._places.pop((model, version), None)
        if place is not None:
            group, length, content = place
            lengths = self._versions[group]
            lengths[length][content].discard(version)
            if not lengths[length][content]:
                del lengths[length][content]
            if not lengths[length]:
                del lengths[length]
            if not lengths:
                del self._versions[group]

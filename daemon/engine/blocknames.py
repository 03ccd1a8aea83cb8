"""Turns an engine's own names of cached blocks into the keys by which prompts are matched."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from preble.daemon.flow.events import BlocksCleared, BlocksRemoved, BlocksStored, KvChange
from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sched.blocks import BlockHasher, root_key


@dataclass(frozen=True, slots=True)
class Stored:
    """An engine put blocks into its prefix cache."""

    hashes: tuple[int, ...]
    """The engine's own name of each block."""
    parent_hash: int | None
    """The engine's name of the block before the first one; None at the start of a prompt."""
    token_ids: Sequence[int]
    """`len(hashes)` times block size."""
    lora: str
    salt: str


@dataclass(frozen=True, slots=True)
class Removed:
    """An engine evicted blocks."""

    hashes: tuple[int, ...]


Told = Stored | Removed | BlocksCleared
"""What an engine says of its prefix cache, in its own names."""


class BlockNames:
    """What one start of one engine has named, and not yet evicted."""

    def __init__(self, model: ModelName, block_size: int) -> None:
        self.unplaced_blocks = 0
        """Blocks stored behind one that is not known, because the report of it was lost: no prompt can match them."""
        self._model = model
        self._hasher = BlockHasher(block_size)
        self._key_of: dict[int, BlockKey] = {}

    def __len__(self) -> int:
        """Blocks known to be cached."""
        return len(self._key_of)

    def ours(self, told: Iterable[Told]) -> Iterator[KvChange]:
        """The same changes, in the same order, by our keys."""
        for change in told:
            match change:
                case Stored():
                    if (stored := self._stored(change)) is not None:
                        yield stored
                case Removed(hashes=hashes):
                    keys = tuple(self._key_of.pop(name) for name in hashes if name in self._key_of)
                    if keys:
                        yield BlocksRemoved(keys=keys)
                case BlocksCleared():
                    self._key_of.clear()
                    yield change

    def _stored(self, told: Stored) -> BlocksStored | None:
        parent: BlockKey | None = None
        if told.parent_hash is not None:
            parent = self._key_of.get(told.parent_hash)
            if parent is None:
                self.unplaced_blocks += len(told.hashes)
                return None
        before = root_key(self._model, lora=told.lora, salt=told.salt) if parent is None else parent
        if len(told.hashes) == 1:  # as answers are reported
            keys = [self._hasher.next_key(before, told.token_ids)]
        else:
            keys = self._hasher.chain(before, np.asarray(told.token_ids, dtype=np.uint32))
        self._key_of.update(zip(told.hashes, keys, strict=True))
        return BlocksStored(keys=tuple(keys), parent=parent)

"""Token ids of prompts that came of late, so that an operator who may can read what a stretch of the index says."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preble.daemon.ids import BlockKey, ModelName, TenantName
from preble.daemon.sched.blocks import TokenIds

_BLOCK_BYTES = 200
"""That a block costs beside its tokens: its key, its place, its bytes object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStretch:
    """What is kept of a stretch's text."""

    id: str
    model: ModelName
    tenant: TenantName | None
    """Whose prompts alone came through it; None if it is several tenants', or not known."""
    tokens: list[int]
    truncated: bool
    """Whether it is longer than that."""


class KeptPrompts:
    """One model's prompts, block by block; the blocks that came last longest ago are forgotten first.

    A key stands for all that comes before its block, the salt too: nobody's block is found by another's key.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._blocks: OrderedDict[BlockKey, bytes] = OrderedDict()
        self.size_bytes = 0

    def note(self, keys: Sequence[BlockKey], tokens: TokenIds, block_tokens: int) -> None:
        """A prompt came whose whole blocks have these keys. Its end is forgotten before its beginning."""
        for at in reversed(range(len(keys))):
            if keys[at] in self._blocks:
                self._blocks.move_to_end(keys[at])
                continue
            block = tokens[at * block_tokens : (at + 1) * block_tokens].astype(np.uint32).tobytes()
            self._blocks[keys[at]] = block
            self.size_bytes += len(block) + _BLOCK_BYTES
        while self.size_bytes > self._limit_bytes:
            self.size_bytes -= len(self._blocks.popitem(last=False)[1]) + _BLOCK_BYTES

    def tokens(self, keys: Sequence[BlockKey], most_tokens: int) -> list[int]:
        """Of the leading ones of these blocks that are kept, but no more than that; none of what is forgotten."""
        found = array("I")
        for key in keys:
            block = self._blocks.get(key)
            if block is None or len(found) >= most_tokens:
                break
            found.frombytes(block)
        return found[:most_tokens].tolist()

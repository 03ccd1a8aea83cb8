"""From what a simulated prompt contains to its tokens and to the keys of its blocks.

The tokens are really made and hashed as the daemon hashes prompts, so a simulation and a replay of the same workload on
real engines share the same blocks.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sched.blocks import BlockHasher, TokenIds, root_key
from preble.daemon.sim.types import Piece

LEAST_TOKEN_ID, N_TOKEN_IDS = 5, 195
"""Tokens are drawn from these ids, which every vocabulary has and none of which ends an answer."""

_MASK = (1 << 64) - 1
_MAX_KEPT_BLOCKS = 2_000_000


def token_ids(pieces: Sequence[Piece]) -> TokenIds:
    """The tokens of a prompt. Token i of a content depends on nothing but the content's number and i."""
    if not pieces:
        return np.empty(0, dtype=np.uint32)
    return np.concatenate([_content_tokens(piece) for piece in pieces])


def _content_tokens(piece: Piece) -> TokenIds:
    """Numbers from SplitMix64 (Steele et al. 2014), seeded with the content's number and scaled to the range."""
    with np.errstate(over="ignore"):
        seed = np.uint64(_mixed_int(piece.content))
        numbers = _mixed(seed + np.arange(1, piece.n_tokens + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    scaled = (numbers >> np.uint64(32)) * np.uint64(N_TOKEN_IDS) >> np.uint64(32)
    return scaled.astype(np.uint32) + np.uint32(LEAST_TOKEN_ID)


def _mixed_int(number: int) -> int:
    return int(_mixed(np.array([number & _MASK], dtype=np.uint64))[0])


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class _Start(NamedTuple):
    """What is known of a prompt after some of its pieces."""

    keys: tuple[BlockKey, ...]
    tail: TokenIds
    """Tokens after the last full block."""


class BlockKeys:
    """Keys of prompts' blocks for one block size. Remembers prompts' beginnings, the least recently used go first."""

    def __init__(self, block_size: int, model: ModelName, max_kept_blocks: int = _MAX_KEPT_BLOCKS) -> None:
        self._hasher = BlockHasher(block_size)
        self._nothing = _Start((), np.empty(0, dtype=np.uint32))
        self._root = root_key(model)
        self._max_kept_blocks = max_kept_blocks
        self._kept_blocks = 0
        self._kept: OrderedDict[tuple[Piece, ...], _Start] = OrderedDict()

    def keys(self, pieces: Sequence[Piece]) -> tuple[BlockKey, ...]:
        """One key per full block; equal keys for the same tokens behind the same tokens."""
        prompt = tuple(pieces)
        n_known, start = self._known(prompt)
        for end in range(n_known + 1, len(prompt) + 1):
            start = self._extended(start, prompt[end - 1])
            self._keep(prompt[:end], start)
        return start.keys

    def _known(self, prompt: tuple[Piece, ...]) -> tuple[int, _Start]:
        for end in range(len(prompt), 0, -1):
            start = self._kept.get(prompt[:end])
            if start is not None:
                self._kept.move_to_end(prompt[:end])
                return end, start
        return 0, self._nothing

    def _extended(self, start: _Start, piece: Piece) -> _Start:
        tokens = np.concatenate([start.tail, _content_tokens(piece)])
        parent = start.keys[-1] if start.keys else self._root
        keys = self._hasher.chain(parent, tokens)
        return _Start(start.keys + tuple(keys), tokens[len(keys) * self._hasher.block_size :].copy())

    def _keep(self, pieces: tuple[Piece, ...], start: _Start) -> None:
        self._kept[pieces] = start
        self._kept_blocks += _weight(start)
        while self._kept_blocks > self._max_kept_blocks:
            _, dropped = self._kept.popitem(last=False)
            self._kept_blocks -= _weight(dropped)


def _weight(start: _Start) -> int:
    return len(start.keys) + 16  # what an entry itself takes, in blocks

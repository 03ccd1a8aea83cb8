"""From what a simulated prompt contains to its tokens and to the keys of its blocks.

The tokens are really made and hashed as the daemon hashes prompts, so a simulation and a replay of the same workload on
real engines share the same blocks.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sched.blocks import BlockHasher, TokenIds, root_key
from preble.daemon.sim.types import Piece

LEAST_TOKEN_ID, N_TOKEN_IDS = 5, 195
"""Tokens are drawn from these ids, which every vocabulary has and none of which ends an answer."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = (np.uint64(bits) for bits in (27, 30, 31, 32))
_RANGE, _LEAST = np.uint64(N_TOKEN_IDS), np.uint64(LEAST_TOKEN_ID)
_MAX_KEPT_BLOCKS = 2_000_000


def token_ids(pieces: Sequence[Piece]) -> TokenIds:
    """The tokens of a prompt. Token i of a content depends on nothing but the content's number and i."""
    if not pieces:
        return np.empty(0, dtype=np.uint32)
    return np.concatenate([_content_tokens(piece) for piece in pieces])


def _content_tokens(piece: Piece) -> TokenIds:
    """Numbers from SplitMix64 (Steele et al. 2014), seeded with the content's number and scaled to the range."""
    steps = _steps(1 << piece.n_tokens.bit_length())
    numbers = steps[: piece.n_tokens] + np.uint64(_seed(piece.content))
    numbers ^= numbers >> _30
    numbers *= _MIX_1
    numbers ^= numbers >> _27
    numbers *= _MIX_2
    numbers ^= numbers >> _31
    numbers >>= _32
    numbers *= _RANGE
    numbers >>= _32
    numbers += _LEAST
    return numbers.astype(np.uint32)


@cache
def _steps(count: int) -> NDArray[np.uint64]:
    """The generator's state before each number, less its seed."""
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


def _seed(content: int) -> int:
    """Far from the seeds of contents next to it."""
    mixed = ((content ^ (content >> 30)) * int(_MIX_1)) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * int(_MIX_2)) & _MASK
    return mixed ^ (mixed >> 31)


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
        if n_known == len(prompt):
            return start.keys
        tokens = np.concatenate([start.tail, *map(_content_tokens, prompt[n_known:])])
        parent = start.keys[-1] if start.keys else self._root
        keys = start.keys + tuple(self._hasher.chain(parent, tokens))
        block_size, n_before = self._hasher.block_size, len(start.keys) * self._hasher.block_size
        n_tokens = n_before + len(start.tail)
        for end in range(n_known + 1, len(prompt) + 1):
            n_tokens += prompt[end - 1].n_tokens
            n_keys = n_tokens // block_size
            tail = tokens[n_keys * block_size - n_before : n_tokens - n_before]
            self._keep(prompt[:end], _Start(keys[:n_keys], tail.copy()))
        return keys

    def _known(self, prompt: tuple[Piece, ...]) -> tuple[int, _Start]:
        for end in range(len(prompt), 0, -1):
            start = self._kept.get(prompt[:end])
            if start is not None:
                self._kept.move_to_end(prompt[:end])
                return end, start
        return 0, self._nothing

    def _keep(self, pieces: tuple[Piece, ...], start: _Start) -> None:
        self._kept[pieces] = start
        self._kept_blocks += _weight(start)
        while self._kept_blocks > self._max_kept_blocks:
            _, dropped = self._kept.popitem(last=False)
            self._kept_blocks -= _weight(dropped)


def _weight(start: _Start) -> int:
    return len(start.keys) + 16  # what an entry itself takes, in blocks

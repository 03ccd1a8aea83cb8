"""Token ids to chain hashes of KV blocks, computed for a whole prompt at once. Keeps no state but constants.

An engine caches a prompt in full blocks, and a block can be reused only behind the very blocks that stood before it.
So a block's key covers all tokens up to its end:

    key[i] = key[i-1] * R + h(tokens of block i)      (mod 2^64, R odd)

R is invertible, so the recurrence unrolls into one cumulative sum, and a chain goes on from any block's key alone.
Keys are not cryptographic: a collision costs a wrong prediction, never wrong output. What separates tenants is the
engine's own salted cache, which the root key only mirrors.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from operator import mul

import numpy as np
from numpy.typing import NDArray

from preble.daemon.ids import BlockKey, ModelName

TokenIds = NDArray[np.uint32]

_MASK = (1 << 64) - 1
_R = 0x9E3779B97F4A7C15  # odd, hence invertible; 2^64 / golden ratio
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_STRIDE = 4096  # blocks hashed per pass: the tables of powers stay small


def root_key(model: ModelName, *, lora: str = "", salt: str = "") -> BlockKey:
    """The key "before" a prompt's first block: what separates caches that must not match each other."""
    identity = "\0".join((model, lora, salt)).encode()
    return BlockKey(int.from_bytes(blake2b(identity, digest_size=8).digest(), "little"))


def content_of(root: BlockKey, key: BlockKey, n_blocks: int) -> int:
    """What a chain of so many blocks says that ends with `key` and has `root` before it: without the root.

    Chains of that length say the same if their tokens are the same, whatever their models, salts and roots are.
    """
    return key - root * _power(n_blocks) & _MASK


@cache
def _power(exponent: int) -> int:
    return pow(_R, exponent, 1 << 64)


class BlockHasher:
    """Chain keys for one block size."""

    def __init__(self, block_size: int) -> None:
        assert block_size > 0, f"block_size={block_size}"
        self.block_size = block_size
        self._weights = _odd_weights(block_size)
        self._weight_list: list[int] = self._weights.tolist()
        self._powers = _powers(_R, _STRIDE)
        self._inverse_powers = _powers(pow(_R, -1, 1 << 64), _STRIDE)

    def chain(self, parent: BlockKey, token_ids: TokenIds) -> list[BlockKey]:
        """Keys of the full blocks of `token_ids`, which follow the block `parent`; a shorter tail has none."""
        n_blocks = len(token_ids) // self.block_size
        keys: list[BlockKey] = []
        for start in range(0, n_blocks, _STRIDE):
            count = min(_STRIDE, n_blocks - start)
            first = start * self.block_size
            keys += self._chain_pass(parent, token_ids[first : first + count * self.block_size], count)
            parent = keys[-1]
        return keys

    def next_key(self, parent: BlockKey, token_ids: Sequence[int]) -> BlockKey:
        """The key of the one block that follows `parent`: for so few tokens numpy takes longer than it saves."""
        mixed = sum(map(mul, token_ids, self._weight_list)) + _R & _MASK
        mixed = (mixed ^ (mixed >> 30)) * _MIX_1 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * _MIX_2 & _MASK
        return BlockKey(parent * _R + (mixed ^ (mixed >> 31)) & _MASK)

    def _chain_pass(self, parent: BlockKey, token_ids: TokenIds, count: int) -> list[BlockKey]:
        blocks = token_ids.astype(np.uint64).reshape(count, self.block_size)
        hashes = _scramble((blocks * self._weights).sum(axis=1, dtype=np.uint64))
        sums = np.cumsum(hashes * self._inverse_powers[:count], dtype=np.uint64)
        keys: list[BlockKey] = ((sums + np.uint64(parent)) * self._powers[:count]).tolist()
        return keys


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base^1 .. base^count, mod 2^64."""
    powers = np.full(count, base, dtype=np.uint64)
    return np.multiply.accumulate(powers, dtype=np.uint64)


def _odd_weights(count: int) -> NDArray[np.uint64]:
    """One fixed odd 64-bit weight per position in a block."""
    return _scramble(np.arange(1, count + 1, dtype=np.uint64)) | np.uint64(1)


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit."""
    mixed = values + np.uint64(_R)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX_1)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX_2)
    return mixed ^ (mixed >> np.uint64(31))


def reusable_tokens(n_tokens: int, n_blocks: int, block_size: int) -> int:
    """Of a prompt, what `n_blocks` cached blocks save; an engine always computes the last token, to sample from it."""
    most_blocks = (n_tokens - 1) // block_size
    return block_size * (n_blocks if n_blocks < most_blocks else most_blocks)

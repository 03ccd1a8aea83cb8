"""How much of its prompts a workload could find cached at best, in one cache over all GPUs."""

import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sim.prompts import BlockKeys
from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.types import Piece, SimRequest

_NEVER = sys.maxsize


def oracle_hit_ratio(requests: Iterator[SimRequest], block_size: int, max_model_len: int = sys.maxsize) -> float:
    """Cached tokens over prompt tokens, in the whole blocks that an engine caches; it always computes the last token.

    No policy can do better, whatever the GPUs' memory: nothing is computed twice. Prompts too long for the model, which
    are refused, are left out.
    """
    cache: set[BlockKey] = set()
    prompt_tokens = cached_tokens = 0
    for n_tokens, blocks, n_usable in _served(requests, block_size, max_model_len):
        n_cached = bisect_left(
            blocks, True, hi=n_usable, key=lambda block: block not in cache
        )  # a block is never without its parent
        prompt_tokens += n_tokens
        cached_tokens += n_cached * block_size
        cache.update(blocks)
    return cached_tokens / prompt_tokens if prompt_tokens else 0.0


def capacity_hit_ratio(
    requests: Iterator[SimRequest], block_size: int, kv_blocks: int, max_model_len: int = sys.maxsize
) -> float:
    """The same of a cache of `kv_blocks` that knows what comes, and keeps what is wanted soonest (Belady's MIN).

    No policy that serves in the order of arrival can do better with so much memory, however it is spread over GPUs;
    one that lets requests with the same prefix go together may.
    """
    served = list(_served(requests, block_size, max_model_len))
    cache: dict[BlockKey, int] = {}
    """What is kept, with the request that wants it next."""
    farthest: list[tuple[int, BlockKey]] = []
    """A heap of both; entries whose request is not the one in `cache` are void."""
    cached_blocks = 0
    for (_, blocks, n_usable), wanted in zip(served, _next_uses(served), strict=True):
        cached_blocks += sum(block in cache for block in blocks[:n_usable])
        for block, request in zip(blocks, wanted, strict=True):
            if request == _NEVER:
                cache.pop(block, None)
            else:
                cache[block] = request
                heappush(farthest, (-request, block))
        while len(cache) > kv_blocks:
            request, block = heappop(farthest)
            if cache.get(block) == -request:
                del cache[block]
    prompt_tokens = sum(n_tokens for n_tokens, _, _ in served)
    return cached_blocks * block_size / prompt_tokens if prompt_tokens else 0.0


_Served = tuple[int, Sequence[BlockKey], int]
"""A request's prompt tokens, the blocks of its prompt and answer, and how many of them it could find cached."""


def _served(requests: Iterator[SimRequest], block_size: int, max_model_len: int) -> Iterator[_Served]:
    keys = BlockKeys(block_size, ModelName("oracle"))
    for request in unrolled(requests):
        if request.prompt_tokens < max_model_len:
            blocks = keys.keys((*request.prompt, Piece(request.output_content, request.output_tokens)))
            yield request.prompt_tokens, blocks, (request.prompt_tokens - 1) // block_size


def _next_uses(served: Sequence[_Served]) -> list[list[int]]:
    """For each request's blocks the number of the next request that could find them cached."""
    coming: dict[BlockKey, int] = {}
    rows: list[list[int]] = []
    for number in range(len(served) - 1, -1, -1):
        _, blocks, n_usable = served[number]
        rows.append([coming.get(block, _NEVER) for block in blocks])
        coming.update(dict.fromkeys(blocks[:n_usable], number))
    rows.reverse()
    return rows

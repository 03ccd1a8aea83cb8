"""How much of its prompts a workload could find cached at best: one cache over all GPUs that forgets nothing."""

import sys
from bisect import bisect_left
from collections.abc import Iterator

from preble.daemon.ids import BlockKey, ModelName
from preble.daemon.sim.prompts import BlockKeys
from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.types import Piece, SimRequest


def oracle_hit_ratio(requests: Iterator[SimRequest], block_size: int, max_model_len: int = sys.maxsize) -> float:
    """Cached tokens over prompt tokens, in the whole blocks that an engine caches; it always computes the last token.

    No policy can do better, whatever the GPUs' memory: nothing is computed twice. Prompts too long for the model, which
    are refused, are left out.
    """
    cache: set[BlockKey] = set()
    keys = BlockKeys(block_size, ModelName("oracle"))
    prompt_tokens = cached_tokens = 0
    for request in unrolled(requests):
        if request.prompt_tokens >= max_model_len:
            continue
        blocks = keys.keys(request.prompt)
        n_cached = bisect_left(
            blocks, True, key=lambda block: block not in cache
        )  # a block is never without its parent
        prompt_tokens += request.prompt_tokens
        cached_tokens += min(n_cached, (request.prompt_tokens - 1) // block_size) * block_size
        cache.update(keys.keys((*request.prompt, Piece(request.output_content, request.output_tokens))))
    return cached_tokens / prompt_tokens if prompt_tokens else 0.0

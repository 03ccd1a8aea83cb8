"""How much of its prompts a workload could find cached at best: one cache over all GPUs that forgets nothing."""

from collections.abc import Iterator

from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.types import Piece, SimRequest


class InfiniteCache:
    """A tree of pieces. Under a piece of a certain length hangs what followed it."""

    __slots__ = ("_after", "_longest")

    def __init__(self) -> None:
        self._longest: dict[int, int] = {}
        self._after: dict[Piece, InfiniteCache] = {}

    def match(self, tokens: tuple[Piece, ...]) -> int:
        """How many of these tokens it holds, from the first one on."""
        node, matched = self, 0
        for piece in tokens:
            matched += min(node._longest.get(piece.content, 0), piece.n_tokens)
            following = node._after.get(piece)
            if following is None:
                return matched
            node = following
        return matched

    def insert(self, tokens: tuple[Piece, ...]) -> None:
        """Hold these tokens from now on."""
        node = self
        for piece in tokens:
            node._longest[piece.content] = max(node._longest.get(piece.content, 0), piece.n_tokens)
            following = node._after.get(piece)
            if following is None:
                following = node._after[piece] = InfiniteCache()
            node = following


def cached_shares(requests: Iterator[SimRequest]) -> Iterator[tuple[SimRequest, int]]:
    """Each request and how many of its prompt's tokens the cache holds when it comes."""
    cache = InfiniteCache()
    for request in unrolled(requests):
        yield request, cache.match(request.prompt)
        cache.insert((*request.prompt, Piece(request.output_content, request.output_tokens)))


def oracle_hit_ratio(requests: Iterator[SimRequest], block_size: int) -> float:
    """Cached tokens over prompt tokens, in the whole blocks that an engine caches; it always computes the last token.

    No policy can do better, whatever the GPUs' memory: nothing is computed twice.
    """
    prompt_tokens = cached_tokens = 0
    for request, cached in cached_shares(requests):
        prompt_tokens += request.prompt_tokens
        cached_tokens += min(cached, request.prompt_tokens - 1) // block_size * block_size
    return cached_tokens / prompt_tokens if prompt_tokens else 0.0

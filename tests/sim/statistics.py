"""What the Preble paper's study (appendix A) measures of a workload: how much is shared, and by how many."""

from dataclasses import dataclass, field

import numpy as np

from preble.daemon.sim.sessions import unrolled
from preble.daemon.sim.types import Piece


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


def cached_shares(requests):
    """Each request and how many of its prompt's tokens the cache holds when it comes."""
    cache = InfiniteCache()
    for request in unrolled(requests):
        yield request, cache.match(request.prompt)
        cache.insert((*request.prompt, Piece(request.output_content, request.output_tokens)))


@dataclass
class _Node:
    requests: int = 0
    after: dict[Piece, "_Node"] = field(default_factory=dict)


@dataclass
class Statistics:
    """(mean, standard deviation) each; tokens, or shares of the prompt."""

    prompt: tuple[float, float]
    output: tuple[float, float]
    shared: tuple[float, float]
    key: tuple[float, float]
    sharing: tuple[float, float]


def measure(requests):
    """A key portion is the deepest node of a radix tree on the prompt's path that is longer than all before it."""
    seen = [(request, cached) for request, cached in cached_shares(requests)]
    root = _Node()
    for request, _ in seen:
        node = root
        for piece in request.prompt:
            node = node.after.setdefault(piece, _Node())
            node.requests += 1
    keys = [_key(root, request.prompt) for request, _ in seen]
    counts = {}
    for node, _ in keys:
        counts[id(node)] = node.requests
    return Statistics(
        prompt=_moments([request.prompt_tokens for request, _ in seen]),
        output=_moments([request.output_tokens for request, _ in seen]),
        shared=_moments([cached / request.prompt_tokens for request, cached in seen]),
        key=_moments([tokens / request.prompt_tokens for (_, tokens), (request, _) in zip(keys, seen, strict=True)]),
        sharing=_moments(list(counts.values())),
    )


def _key(root, prompt):
    """The key portion of this prompt, and its length. Pieces that the same requests share are one node of the tree."""
    node, before, run = root, 0, 0
    best = (root, 0)
    for piece in prompt:
        following = node.after[piece]
        if following.requests != node.requests:
            before, run = before + run, 0
        run += piece.n_tokens
        node = following
        if run > before:
            best = (node, run)
    return best


def _moments(values):
    return float(np.mean(values)), float(np.std(values))

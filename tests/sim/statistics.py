"""What the Preble paper's study (appendix A) measures of a workload: how much is shared, and by how many."""

from dataclasses import dataclass, field

import numpy as np

from preble.daemon.sim.oracle import cached_shares
from preble.daemon.sim.types import Piece


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

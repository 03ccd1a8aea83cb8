"""Chains of the prefix index's forest, as prompts and reports go through them: everything here only reads."""

from collections.abc import Collection, Iterable, Sequence

from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.node import Children, Node

Counts = dict[GpuId, int]

Stretch = tuple[Node, int]
"""A node that a prompt passes through, and how many of its blocks the prompt shares."""


def cached_of(stretch: Stretch, gpu: GpuId) -> int:
    """Blocks of one stretch that the GPU has, or will have once all that was sent there has run."""
    node, n_blocks = stretch
    here = node.on(gpu)
    if here is None:
        return 0
    return n_blocks if here.intended else min(here.resident, n_blocks)


def cached_blocks(stretches: Sequence[Stretch]) -> Counts:
    """Leading blocks of a matched prompt that each GPU has, or will have once all that was sent there has run."""
    found: Counts = {}
    end = 0
    for node, n_blocks in stretches:
        start, end = end, end + n_blocks
        goes_on = False
        for here in node.counted:
            if start and found.get(here.gpu) != start:
                continue
            if here.intended or here.resident >= n_blocks:
                found[here.gpu] = end
                goes_on = True
            elif here.resident:
                found[here.gpu] = start + here.resident
        if not goes_on:
            break
    return found


def biggest_cached(stretches: Iterable[Stretch], gpus: Collection[GpuId]) -> Stretch | None:
    """The node on a prompt's path of which some GPU caches the most blocks, and that number; None if nothing is."""
    best: Stretch | None = None
    most = 0
    for node, shared in stretches:
        if shared <= most:
            continue
        n_blocks = 0
        for here in node.counted:
            if n_blocks < shared and here.gpu in gpus:
                n_blocks = max(n_blocks, cached_of((node, shared), here.gpu))
        if n_blocks > most:
            best, most = (node, n_blocks), n_blocks
    return best


def computed_and_held(leaf: Node, gpu: GpuId) -> tuple[int, int]:
    """Leading blocks of a chain that the GPU has, or that what runs there now computes; and those that it holds."""
    computed = 0
    node: Node | None = leaf
    while node is not None:
        here = node.sole or node.gpus.get(gpu)
        resident = 0
        if here is not None and here.gpu == gpu:
            if here.active:  # and so are all above: who holds a node holds its whole chain
                return computed + node.end, node.end
            resident = here.resident
        computed = resident + (computed if resident == node.n_blocks else 0)
        node = node.parent
    return computed, 0


def reported_blocks(stretches: Sequence[Stretch]) -> Counts:
    """Leading blocks of a matched prompt that each GPU has."""
    found: Counts = {}
    for first in stretches[0][0].counted if stretches else ():
        if not first.resident:
            continue
        total = 0
        for node, n_blocks in stretches:
            here = min(node.resident_on(first.gpu), n_blocks)
            total += here
            if here < n_blocks:
                break
        found[first.gpu] = total
    return found


def shared_blocks(own: Sequence[BlockKey], at: int, keys: Sequence[BlockKey], depth: int) -> int:
    """How many of a node's blocks from `at` on are those of a prompt from `depth` on. O(log blocks)."""
    low, high = 0, min(len(own) - at, len(keys) - depth)
    if own[at + high - 1] == keys[depth + high - 1]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if own[at + middle - 1] == keys[depth + middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def known_after(roots: Children, above: Node | None, first: int, keys: Sequence[BlockKey]) -> tuple[Node | None, int]:
    """How many of `keys` are in the forest, at depth `first` in `above` and behind it, and the node of the last."""
    node, known = above, 0
    if node is not None and first < node.end:
        known = shared_blocks(node.keys, first - node.start, keys, 0)
    if known < len(keys) and (node is None or first + known == node.end):
        child = roots.get(keys[known]) if node is None else node.child(keys[known])
        for below, n_blocks in walk(child, keys, known):
            node, known = below, known + n_blocks
    return node, known


def depth_after(node: Node | None, key: BlockKey | None) -> int:
    """Blocks in the chain up to and with `key`, a block of `node`."""
    if node is None or key is None:
        return 0
    return node.end if node.last == key else node.start + node.keys.index(key) + 1


def walk(node: Node | None, keys: Sequence[BlockKey], depth: int) -> list[Stretch]:
    """The part of a prompt that is known from `depth` on, where it may go on with `node`."""
    stretches: list[Stretch] = []
    n_keys = len(keys)
    while node is not None:
        n_blocks = node.n_blocks
        end = depth + n_blocks
        if end > n_keys or node.last != keys[end - 1]:
            if shared := shared_blocks(node.keys, 0, keys, depth):
                stretches.append((node, shared))
            break
        stretches.append((node, n_blocks))
        if end == n_keys:
            break
        node, depth = node.only or node.several.get(keys[end]), end
    return stretches

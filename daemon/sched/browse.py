"""The prefix index for people: a page of what comes behind a prefix at a time."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import Literal

from preble.daemon.ids import BlockKey, GpuId, TenantName
from preble.daemon.sched.index import PrefixIndex
from preble.daemon.sched.node import Node

Order = Literal["requests", "tokens", "continuations"]
"""What there is most of comes first."""

_LOOKED_AT = 20_000
"""Of a prefix's continuations, so many are put in order; a list of them all would make everybody wait."""
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a prefix's continuations, and how many there are."""

    nodes: list[Node]
    total: int
    next: int | None
    """Where the next page starts; None on the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What a listed node stands for."""

    keys: tuple[BlockKey, ...]
    """Of its own blocks, not of those before it."""
    tenant: TenantName | None
    """Whose prompts alone came through it; None if it is several tenants', or not known."""


class Browser:
    """Finds nodes again that were listed before, by the name they were listed by: their last block's key."""

    def __init__(self) -> None:
        self._listed: OrderedDict[str, Node] = OrderedDict()

    def page(
        self, index: PrefixIndex, parent: Node | None, *, order: Order, gpu: GpuId | None, limit: int, start: int
    ) -> Page:
        """What comes behind `parent`, or all beginnings; with a `gpu` only what it caches or was sent."""
        children = index.roots.values() if parent is None else parent.children
        looked_at = islice(children, _LOOKED_AT)
        here = [node for node in looked_at if gpu is None or _is_at(node, gpu)]
        ranked = nsmallest(start + limit + 1, here, key=_KEYS[order])
        found = ranked[start : start + limit]
        for node in found:
            self._remember(node)
        total = len(children) if gpu is None else len(here)
        return Page(found, total, start + limit if len(ranked) > start + limit else None)

    def find(self, name: str) -> Node | None:
        """The node that was listed by this name, if it is still there."""
        node = self._listed.get(name)
        return node if node is not None and node.keys and name_of(node) == name else None

    def _remember(self, node: Node) -> None:
        name = name_of(node)
        self._listed[name] = node
        self._listed.move_to_end(name)
        while len(self._listed) > _REMEMBERED:
            self._listed.popitem(last=False)


class Owners:
    """Which tenant's prompts begin with a block; bounded, the longest unused are forgotten first."""

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._of: OrderedDict[object, TenantName | None] = OrderedDict()

    def note(self, first: object, tenant: TenantName) -> None:
        """A prompt of the tenant begins with this block."""
        known = self._of.get(first, tenant)
        self._of[first] = tenant if known == tenant else None
        self._of.move_to_end(first)
        if len(self._of) > self._most:
            self._of.popitem(last=False)

    def of(self, node: Node) -> TenantName | None:
        """Whose prompts alone came through it; None if it is several tenants', or not known."""
        while node.parent is not None:
            node = node.parent
        return self._of.get(node.keys[0]) if node.keys else None


def name_of(node: Node) -> str:
    """What a node is called, until it is split or takes another in."""
    return f"{node.keys[-1]:016x}"


def requests_of(node: Node) -> int:
    """Sent through it within the window."""
    return node.uses


def _is_at(node: Node, gpu: GpuId) -> bool:
    here = node.on(gpu)
    return here is not None and bool(here.resident or here.uses or here.intended)


_KEYS: dict[Order, Callable[[Node], tuple[int, int]]] = {
    "requests": lambda node: (-requests_of(node), -len(node.keys)),
    "tokens": lambda node: (-len(node.keys), -requests_of(node)),
    "continuations": lambda node: (-len(node.children), -requests_of(node)),
}

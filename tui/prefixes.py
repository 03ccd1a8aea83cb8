"""What has been fetched of the prefix tree, as rows. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from preble.daemon.wire.live import PrefixPage, PrefixRow

Order = Literal["requests", "tokens", "reuse"]
ORDERS: tuple[Order, ...] = ("requests", "tokens", "reuse")
ROOT: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRow:
    """A stretch, or what is left to fetch under one."""

    key: str
    depth: int
    prefix: PrefixRow | None
    """None: more continuations of `parent` that are not fetched."""
    parent: str | None
    is_open: bool = False
    left: int = 0
    """How many are not fetched."""


@dataclass(slots=True)
class _Branch:
    rows: list[PrefixRow] = field(default_factory=list)
    total: int = 0
    next: str | None = None


class PrefixTree:
    """Branches as they were fetched, and which of them are open."""

    def __init__(self) -> None:
        self.order: Order = "requests"
        self._branches: dict[str | None, _Branch] = {}
        self._open: set[str] = set()

    def put(self, parent: str | None, page: PrefixPage, *, after: str | None = None) -> None:
        """A page came: the first one replaces what was there, the others are put behind it."""
        branch = self._branches.get(parent)
        if branch is None or after is None:
            branch = self._branches[parent] = _Branch()
        known = {row.id for row in branch.rows}
        branch.rows += [row for row in page.rows if row.id not in known]
        branch.total, branch.next = page.total, page.next

    def next_of(self, parent: str | None) -> str | None:
        """Where the next page of a branch starts."""
        branch = self._branches.get(parent)
        return None if branch is None else branch.next

    def is_fetched(self, parent: str | None) -> bool:
        """Whether there is something of a branch."""
        return parent in self._branches

    def toggle(self, prefix: str) -> bool:
        """Open a branch, or close it. Gives whether it is open now."""
        self._open ^= {prefix}
        return prefix in self._open

    def open_branches(self) -> list[str | None]:
        """Those that are seen, the root first."""
        return [ROOT, *(row.key for row in self.rows() if row.is_open)]

    def rows(self) -> Iterator[TreeRow]:
        """What is to be shown, top down."""
        yield from self._rows(ROOT, 0)

    def _rows(self, parent: str | None, depth: int) -> Iterator[TreeRow]:
        branch = self._branches.get(parent)
        if branch is None:
            return
        for prefix in sorted(branch.rows, key=self._rank):
            is_open = prefix.id in self._open
            yield TreeRow(key=prefix.id, depth=depth, prefix=prefix, parent=parent, is_open=is_open)
            if is_open:
                yield from self._rows(prefix.id, depth + 1)
        if branch.next is not None:
            left = max(branch.total - len(branch.rows), 0)
            yield TreeRow(key=f"{parent or ''}+more", depth=depth, prefix=None, parent=parent, left=left)

    def _rank(self, prefix: PrefixRow) -> tuple[float, str]:
        value = {"requests": prefix.requests, "tokens": prefix.tokens, "reuse": reuse(prefix) or 0.0}[self.order]
        return (-float(value), prefix.id)


def reuse(prefix: PrefixRow) -> float | None:
    """Of the requests through it, the share that could find it cached: all but the first on each GPU."""
    sent = sum(1 for requests in prefix.by_gpu.values() if requests)
    return None if not prefix.requests else max(prefix.requests - sent, 0) / prefix.requests


def where(prefix: PrefixRow, gpu: str) -> Literal["all", "part", "believed", "none"]:
    """How much of it a GPU caches: what it has reported, else what it was sent."""
    reported = prefix.reported_tokens.get(gpu, 0)
    if reported:
        return "all" if 2 * reported >= prefix.tokens else "part"
    return "believed" if gpu in prefix.believed else "none"

"""A page of the prefix index as the console shows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from preble.daemon.errors import InvalidRequest, NotFound
from preble.daemon.ids import BlockKey, GpuId
from preble.daemon.sched.browse import Browser, Order, Owners, name_of, requests_of
from preble.daemon.sched.index import Node, PrefixIndex
from preble.daemon.wire.live import PrefixPage, PrefixRow

TemplateOf = Callable[[Sequence[BlockKey]], str | None]
"""Which template's prefix ends in a stretch of these blocks, as `NAME@VERSION`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which stretches are wanted: a page of them."""

    parent: str | None
    """Those behind this one; None: all beginnings."""
    limit: int
    template_of: TemplateOf
    order: Order = "requests"
    gpu: GpuId | None = None
    """Those that it caches; None: all."""
    after: str | None = None
    """What the page before said that comes `next`."""


def prefix_page(index: PrefixIndex, browser: Browser, owners: Owners, block_size: int, wanted: Listing) -> PrefixPage:
    """The page that is wanted. Raises `NotFound` and `InvalidRequest`."""
    parent, after = wanted.parent, wanted.after
    node = None if parent is None else browser.find(parent)
    if parent is not None and node is None:
        raise unknown_stretch(parent, "parent")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise InvalidRequest(f"{after!r} is not where a page starts; take `next` of the page before.", param="after")
    page = browser.page(index, node, order=wanted.order, gpu=wanted.gpu, limit=wanted.limit, start=int(after or 0))
    return PrefixPage(
        rows=[_row(each, owners, wanted.template_of, block_size) for each in page.nodes],
        total=page.total,
        next=None if page.next is None else str(page.next),
    )


def unknown_stretch(name: str, param: str) -> NotFound:
    """What to say of a stretch that is not there."""
    why = "it was never listed, has been split or joined, or is forgotten"
    return NotFound(f"There is no stretch {name!r}: {why}.", param=param)


def _row(node: Node, owners: Owners, template_of: TemplateOf, block_size: int) -> PrefixRow:
    n_blocks, counted = len(node.keys), sorted(node.counted, key=attrgetter("gpu"))
    return PrefixRow(
        id=name_of(node),
        parent=name_of(node.parent) if node.parent is not None else None,
        tokens=n_blocks * block_size,
        depth_tokens=node.end * block_size,
        children=len(node.children),
        requests=requests_of(node),
        by_gpu={str(here.gpu): here.uses for here in counted if here.uses},
        reported_tokens={str(here.gpu): here.resident * block_size for here in counted if here.resident},
        believed=[str(here.gpu) for here in counted if here.intended and here.resident < n_blocks],
        active={str(here.gpu): here.active for here in counted if here.active},
        tenant=owners.of(node),
        template=template_of(node.keys),
        expected_output_tokens=round(node.outputs.value, 1) if node.outputs is not None else None,
    )

"""Work beside the screen: coroutines that the console does not wait for."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from textual.dom import DOMNode
from textual.worker import WorkType


def start(node: DOMNode, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any, group: str = "") -> None:
    """Begin it; with a group, what still runs in the group is ended first.

    The coroutine is made only when it begins: one that is ended before would complain that nobody awaited it.
    """
    begin = cast("WorkType[None]", partial(work, *arguments))
    node.run_worker(begin, group=group or "default", exclusive=bool(group))

"""How columns of each kind are made: their text, their numbers, and what they are filtered and sorted by. Pure."""

from collections.abc import Callable
from typing import Any, TypeVar

from preble.tui import format as fmt
from preble.tui.query import Value
from preble.tui.roles import Cell, Role
from preble.tui.rows import Column

Row = TypeVar("Row")


def text(
    id: str,
    title: str,
    width: int,
    get: Callable[[Row], str | None],
    *,
    role: Role | Callable[[Row], Role] = "text",
    shown: Callable[[Row], str] | None = None,
    **more: Any,
) -> Column[Row]:
    """Of names and words; `shown` if they are shown otherwise than they are filtered."""

    def show(row: Row) -> Any:
        value = shown(row) if shown is not None else get(row)
        if value is None:
            return ((fmt.UNKNOWN, "muted"),)
        return ((fmt.clean(value), role if isinstance(role, str) else role(row)),)

    return Column(id=id, title=title, width=width, show=show, value=get, **more)


def number(
    id: str,
    title: str,
    width: int,
    get: Callable[[Row], float | None],
    write: Callable[[Any], str] = fmt.number,
    *,
    scale: float = 1.0,
    role: Callable[[float], Role] | None = None,
    **more: Any,
) -> Column[Row]:
    """Of numbers; `scale` makes the unit of the column, by which it is filtered, of what `get` gives."""

    def show(row: Row) -> Any:
        value = get(row)
        if value is None:
            return ((fmt.UNKNOWN, "muted"),)
        return ((write(value), role(value) if role is not None else "text"),)

    def scaled(row: Row) -> Value:
        value = get(row)
        return None if value is None else value * scale

    return Column(id=id, title=title, width=width, show=show, value=scaled, right=True, **more)


def percent(id: str, title: str, width: int, get: Callable[[Row], float | None], **more: Any) -> Column[Row]:
    """Of ratios, shown and filtered as percents."""
    return number(id, title, width, get, fmt.percent, scale=100.0, **more)


def milliseconds(id: str, title: str, width: int, get: Callable[[Row], float | None], **more: Any) -> Column[Row]:
    """Of times."""
    return number(id, title, width, get, fmt.milliseconds, **more)


def above(warn: float, bad: float) -> Callable[[float], Role]:
    """The role of a number that should be small."""
    return lambda value: "bad" if value >= bad else "warn" if value >= warn else "text"


def below(warn: float, bad: float) -> Callable[[float], Role]:
    """The role of a number that should be great."""
    return lambda value: "bad" if value <= bad else "warn" if value <= warn else "text"


def bar_cell(ratio: float | None, width: int) -> Cell:
    """A ratio as a bar."""
    full, empty = fmt.bar(ratio, width)
    return ((full, "accent"), (empty, "muted"))

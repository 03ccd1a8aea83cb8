"""The rows of a live table: filtered, sorted, some of them marked, and a cursor that stays on its row. Pure.

The cursor is a row's key, never a position: rows are sorted anew, come and go, and the cursor goes with its row. If the
row itself is gone, the cursor is put on the one that took its place, and `cursor_lost` says which row it lost.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from preble.tui.query import EVERYTHING, Fields, Query, Value

Row = TypeVar("Row")
Key = Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[Row]):
    """One column. `show` gives pieces of text and their roles; `value` is what it is sorted and filtered by."""

    id: str
    title: str
    width: int
    show: Callable[[Row], Any]
    value: Callable[[Row], Value]
    right: bool = False
    priority: int = 1
    """1 is always shown; of the others, the greatest leaves first where there is no room."""
    widest: int = 0
    """It takes of the room that is left until it is so wide; 0: it stays as it is."""
    is_hidden: bool = False
    """Until somebody asks for it."""
    is_drawn: bool = False
    """A picture, of which nothing is to be written."""


@dataclass(frozen=True, slots=True)
class SortBy:
    """One column to sort by."""

    column: str
    descending: bool


class Rows(Generic[Row]):
    """A table's rows as they are to be shown."""

    def __init__(self, columns: Sequence[Column[Row]], key: Callable[[Row], Key], sort: Sequence[SortBy] = ()) -> None:
        self.columns = tuple(columns)
        self.key = key
        self.sort: tuple[SortBy, ...] = tuple(sort)
        self.query: Query = EVERYTHING
        self.marked: set[Key] = set()
        self.cursor: Key | None = None
        self.cursor_lost: Key | None = None
        self.shown: list[Row] = []
        self.total = 0
        self._all: list[Row] = []
        self._places: dict[Key, int] = {}
        self._last_index = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What can be filtered by."""
        return tuple(column.id for column in self.columns)

    @property
    def index(self) -> int | None:
        """Where the cursor is now."""
        return None if self.cursor is None else self._places.get(self.cursor)

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        index = self.index
        return None if index is None else self.shown[index]

    def place_of(self, key: Key) -> int | None:
        """Where a row is now; None where it is not shown."""
        return self._places.get(key)

    def fields(self, row: Row) -> Fields:
        """All of a row's values."""
        return {column.id: column.value(row) for column in self.columns}

    def replace(self, rows: Iterable[Row]) -> None:
        """Show these rows instead."""
        self._all = list(rows)
        self.refresh()

    def refresh(self) -> None:
        """Filter and sort again, and find the cursor's row."""
        self.total = len(self._all)
        rows = self._all
        if self.query.text:
            rows = [row for row in rows if self.query.matches(self.fields(row))]
        self.shown = self._sorted(rows)
        self._places = {self.key(row): index for index, row in enumerate(self.shown)}
        if self.marked:
            there = {self.key(row) for row in self._all}
            self.marked &= there
        self._find_cursor()

    def move_to(self, index: int) -> None:
        """Put the cursor on the row at a place, or on the nearest there is."""
        self.cursor_lost = None
        if self.shown:
            self._last_index = min(max(index, 0), len(self.shown) - 1)
            self.cursor = self.key(self.shown[self._last_index])

    def move_by(self, rows: int) -> None:
        """Move the cursor down, or up."""
        self.move_to((self.index or 0) + rows)

    def put_on(self, key: Key) -> bool:
        """Put the cursor on a row. False: it is not shown."""
        index = self._places.get(key)
        if index is not None:
            self.move_to(index)
        return index is not None

    def mark(self) -> None:
        """Mark the row under the cursor, or no longer."""
        if self.cursor is not None:
            self.marked ^= {self.cursor}

    def chosen(self) -> list[Row]:
        """The marked rows, or else the one under the cursor."""
        if self.marked:
            return [row for row in self.shown if self.key(row) in self.marked]
        return [self.current] if self.current is not None else []

    def sort_by(self, column: str, *, add: bool = False) -> None:
        """Sort by a column, from its greatest on; if it is sorted by already, the other way round.

        With `add`, rows that are equal by the columns before are sorted by it.
        """
        old = next((by for by in self.sort if by.column == column), None)
        new = SortBy(column, not old.descending if old else True)
        kept = tuple(by for by in self.sort if by.column != column) if add else ()
        self.sort = (*kept, new)
        self.refresh()

    def _sorted(self, rows: list[Row]) -> list[Row]:
        by_id = {column.id: column for column in self.columns}
        for by in reversed(self.sort):
            value = by_id[by.column].value
            known = [row for row in rows if value(row) is not None]
            unknown = [row for row in rows if value(row) is None]
            known.sort(key=lambda row: _sortable(value(row)), reverse=by.descending)
            rows = known + unknown
        return rows

    def _find_cursor(self) -> None:
        if self.cursor is not None and self.cursor in self._places:
            self._last_index = self._places[self.cursor]
            return
        lost = self.cursor
        if not self.shown:
            return  # it may come back
        self.move_to(self._last_index if lost is not None else 0)
        self.cursor_lost = lost


def shared_out(columns: Sequence[Column[Row]], spare: int) -> list[tuple[Column[Row], int]]:
    """How wide each is: those that are narrowest first, as far as they go, so that none takes it all."""
    more = [0] * len(columns)
    growing = [number for number, column in enumerate(columns) if column.widest > column.width]
    while growing and spare:
        number = min(growing, key=lambda each: more[each])
        more[number] += 1
        spare -= 1
        if columns[number].width + more[number] >= columns[number].widest:
            growing.remove(number)
    return [(column, column.width + extra) for column, extra in zip(columns, more, strict=True)]


def _sortable(value: Value) -> tuple[int, float, str]:
    if isinstance(value, str):
        return (1, 0.0, value)
    return (0, float(value or 0.0), "")

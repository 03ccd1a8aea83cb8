"""A table of live rows. It draws only the lines that are seen, so thousands of rows cost no more than a screenful."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic

from rich.segment import Segment
from rich.style import Style
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from preble.tui.query import Query
from preble.tui.roles import Cell, Role
from preble.tui.rows import Column, Key, Row, Rows, SortBy, shared_out
from preble.tui.theme import DARK, Palette

_GAP = 2


class LiveTable(ScrollView, Generic[Row], can_focus=True, inherit_bindings=False):
    """Rows under a header line. Its screen has the keys."""

    class Moved(Message):
        """The cursor is on another row, or on none."""

        def __init__(self, table: "LiveTable[Any]") -> None:
            super().__init__()
            self.table = table

    class Opened(Message):
        """Somebody wants to go deeper at the cursor."""

        def __init__(self, table: "LiveTable[Any]") -> None:
            super().__init__()
            self.table = table

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        key: Callable[[Row], Key],
        *,
        sort: Sequence[SortBy] = (),
        empty: str = "nothing here",
        follows: bool = False,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.rows: Rows[Row] = Rows(columns, key, sort)
        self.hidden = {column.id for column in columns if column.is_hidden}
        self.palette: Palette = DARK
        self.is_dimmed = False
        self.follows = follows
        """Whether the cursor stays on the first row, whichever that is."""
        self.empty = empty
        self._widths: list[tuple[Column[Row], int]] = []
        self._line_before = 0

    @property
    def height(self) -> int:
        """How many rows can be seen."""
        return max(self.size.height - 1, 1)

    def show(self, rows: Iterable[Row]) -> None:
        """Show these rows; what the cursor is on stays on its line of the screen."""
        self._changing(lambda: self.rows.replace(rows))

    def filter(self, query: Query) -> None:
        """Show only what matches."""

        def change() -> None:
            self.rows.query = query
            self.rows.refresh()

        self._changing(change)

    def sort_by(self, column: str, *, add: bool = False) -> None:
        """Sort by a column; see `Rows.sort_by`."""
        self._changing(lambda: self.rows.sort_by(column, add=add))

    def move_by(self, rows: int) -> None:
        """Move the cursor."""
        self.follows = self.follows and rows < 0 and (self.rows.index or 0) + rows <= 0
        self.rows.move_by(rows)
        self._moved()

    def move_to(self, index: int) -> None:
        """Put the cursor on the row at a place; -1: the last."""
        self.follows = self.follows and index == 0
        self.rows.move_to(len(self.rows.shown) - 1 if index < 0 else index)
        self._moved()

    def put_on(self, key: Key) -> bool:
        """Put the cursor on a row. False: it is not shown."""
        found = self.rows.put_on(key)
        if found:
            self.follows = False
            self._moved()
        return found

    def follow(self, follows: bool) -> None:
        """Stay on the first row, or no longer."""
        self.follows = follows
        if follows:
            self.rows.move_to(0)
            self._moved()

    def visible_columns(self) -> list[Column[Row]]:
        """Those for which there is room, in their order."""
        return [column for column, _ in self._widths]

    def render_line(self, y: int) -> Strip:
        """One line of what is seen: the header first."""
        width = self.scrollable_content_region.width
        if y == 0:
            return self._header(width)
        index = int(self.scroll_offset.y) + y - 1
        if index >= len(self.rows.shown):
            text = f" {self.empty}" if y == 1 and not self.rows.shown else ""
            if y == 1 and self.rows.total and not self.rows.shown:
                text = f" none of {self.rows.total} matches the filter"
            return Strip([Segment(text, self._style("muted"))]).adjust_cell_length(width, self._ground())
        return self._row(self.rows.shown[index], width)

    def on_resize(self, event: Resize) -> None:
        """Choose columns anew."""
        self._lay_out()
        self._keep_in_sight()

    def on_click(self, event: Click) -> None:
        """A click puts the cursor there, two open, one on the header sorts."""
        self.focus()
        if event.y == 0:
            column = self._column_at(event.x)
            if column is not None:
                self.sort_by(column.id)
            return
        index = int(self.scroll_offset.y) + event.y - 1
        if index < len(self.rows.shown):
            self.move_to(index)
            if event.chain == 2:
                self.post_message(self.Opened(self))

    def lay_out(self) -> None:
        """Columns were shown or hidden."""
        self._lay_out()
        self.refresh()

    def _changing(self, change: Callable[[], None]) -> None:
        """Change the rows, and keep the cursor's row on its line, or the cursor on the first row."""
        before, index = self.rows.cursor, self.rows.index
        line = (index or 0) - int(self.scroll_offset.y)
        change()
        if self.follows and self.rows.shown:
            self.rows.move_to(0)
        self._lay_out()
        if self.follows:
            self.scroll_to(y=0, animate=False, force=True)
        elif index is not None and self.rows.index is not None:
            line = min(max(line, 0), self.height - 1)
            self.scroll_to(y=self.rows.index - line, animate=False, force=True)
        self.refresh()
        if self.rows.cursor != before:
            self.post_message(self.Moved(self))

    def _moved(self) -> None:
        self._keep_in_sight()
        self.refresh()
        self.post_message(self.Moved(self))

    def _keep_in_sight(self) -> None:
        index = self.rows.index
        if index is None:
            return
        top = int(self.scroll_offset.y)
        if index < top:
            self.scroll_to(y=index, animate=False, force=True)
        elif index >= top + self.height:
            self.scroll_to(y=index - self.height + 1, animate=False, force=True)

    def _lay_out(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, len(self.rows.shown) + 1)
        room = self.scrollable_content_region.width - 2  # a margin on each side
        chosen = [column for column in self.rows.columns if column.id not in self.hidden]
        while len(chosen) > 1 and sum(column.width + _GAP for column in chosen) - _GAP > room:
            last = max(chosen, key=lambda column: column.priority)
            if last.priority <= 1:
                break
            chosen.remove(last)
        spare = room - sum(column.width + _GAP for column in chosen) + _GAP
        self._widths = shared_out(chosen, max(spare, 0))

    def _column_at(self, x: int) -> Column[Row] | None:
        left = 1
        for column, width in self._widths:
            if left <= x < left + width + _GAP:
                return column
            left += width + _GAP
        return None

    def _header(self, width: int) -> Strip:
        segments = [Segment(" ", self._ground())]
        style = self._style("muted") + Style(bold=True)
        for column, room in self._widths:
            title, by = column.title, next((by for by in self.rows.sort if by.column == column.id), None)
            sign = "" if by is None else "▼" if by.descending else "▲"
            text = title[: room - len(sign)] + sign
            segments.append(Segment((text.rjust(room) if column.right else text.ljust(room)) + " " * _GAP, style))
        return Strip(segments).adjust_cell_length(width, self._ground())

    def _row(self, row: Row, width: int) -> Strip:
        key = self.rows.key(row)
        ground = self._ground()
        segments = [Segment("■" if key in self.rows.marked else " ", self._style("accent"))]
        for column, room in self._widths:
            segments += self._cell(column.show(row), room, right=column.right)
            segments.append(Segment(" " * _GAP, ground))
        strip = Strip(segments).adjust_cell_length(width, ground)
        if key != self.rows.cursor:
            return strip
        cursor = self._cursor()
        return Strip([Segment(text, (style or ground) + cursor) for text, style, _ in strip])

    def _cell(self, parts: Cell, room: int, *, right: bool) -> list[Segment]:
        strip = Strip([Segment(text, self._style(role)) for text, role in parts])
        missing = room - strip.cell_length
        if missing < 0:
            short = list(strip.crop(0, room - 1))
            return [*short, Segment("…", self._style("muted"))]
        gap = Segment(" " * missing, self._ground())
        return [gap, *strip] if right else [*strip, gap]

    def _style(self, role: Role) -> Style:
        if self.is_dimmed and role != "title":
            role = "muted"
        return self._ground() + self.palette.style(role)

    def _ground(self) -> Style:
        return Style(bgcolor=self.palette.background)

    def _cursor(self) -> Style:
        has_focus = self.has_focus or not self.screen.is_current
        color = self.palette.cursor if has_focus else self.palette.surface
        return Style(bgcolor=color, bold=has_focus or None, reverse=(self.app.no_color and has_focus) or None)

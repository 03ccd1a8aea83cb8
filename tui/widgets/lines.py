"""Text in lines whose pieces have roles: bars at the screen's edges, tiles, details."""

import textwrap
from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual.events import Click
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from preble.tui.roles import Cell, Part
from preble.tui.theme import DARK, Palette


class Lines(Widget):
    """Some lines, each made of pieces; as high as there are lines, unless its style says otherwise."""

    DEFAULT_CSS = "Lines { height: auto; width: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.palette: Palette = DARK
        self.is_dimmed = False
        self.lines: list[Cell] = []

    def show(self, lines: Sequence[Cell]) -> None:
        """Show these instead."""
        if len(lines) != len(self.lines):
            self.refresh(layout=True)
        self.lines = list(lines)
        self.refresh()

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many as there are."""
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        """One of them."""
        ground = Style(bgcolor=self.ground)
        if y >= len(self.lines):
            return Strip.blank(self.size.width, ground)
        segments = [Segment(text, ground + self._style(part)) for part in self.lines[y] for text in [part[0]]]
        return Strip(segments).adjust_cell_length(self.size.width, ground)

    @property
    def ground(self) -> str:
        """The colour behind."""
        return self.palette.background

    def _style(self, part: Part) -> Style:
        role = part[1]
        return self.palette.style("muted" if self.is_dimmed and role not in ("title", "muted") else role)


class Bar(Lines):
    """One line at the screen's edge; pieces with an action can be clicked."""

    DEFAULT_CSS = "Bar { height: 1; width: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._actions: list[tuple[int, int, str]] = []

    @property
    def ground(self) -> str:
        """The colour behind."""
        return self.palette.surface

    def show_pieces(self, pieces: Sequence[tuple[Cell, str | None]], right: Cell = ()) -> None:
        """Show pieces and what a click on each does; `right` stands at the right end if there is room."""
        self._actions, position = [], 0
        parts: list[Part] = []
        for piece, action in pieces:
            length = sum(len(text) for text, _ in piece)
            if action is not None:
                self._actions.append((position, position + length, action))
            parts += piece
            position += length
        gap = self.size.width - position - sum(len(text) for text, _ in right) - 1
        if right and gap > 0:
            parts += [(" " * gap, "text"), *right]
        self.show([tuple(parts)])

    async def on_click(self, event: Click) -> None:
        """Do what the piece does."""
        for start, end, action in self._actions:
            if start <= event.x < end:
                await self.screen.run_action(action)


def wrapped(text: str, width: int) -> list[str]:
    """Text in lines of at most `width` characters."""
    return textwrap.wrap(text, max(width, 20)) or [""]

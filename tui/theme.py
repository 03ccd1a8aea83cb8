"""Colours by role. They are told apart by people who see no red or no green, too; and a glyph or a word says the same.

The hues are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), lighter on dark and darker on light ground.
"""

from dataclasses import dataclass

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.color import Color as TextualColor
from textual.filter import LineFilter
from textual.theme import Theme

from preble.tui import format as fmt
from preble.tui.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of one theme."""

    name: str
    is_dark: bool
    background: str
    surface: str
    cursor: str
    text: str
    muted: str
    ok: str
    warn: str
    bad: str
    accent: str
    series: tuple[str, ...]
    """Of plotted lines."""

    def style(self, role: Role) -> Style:
        """How text of a role is written, on whatever ground."""
        if role == "title":
            return Style(color=self.accent, bold=True)
        if role == "strong":
            return Style(color=self.text, bold=True)
        if role == "text":
            return Style(color=self.text)
        hues = {"ok": self.ok, "warn": self.warn, "bad": self.bad, "accent": self.accent, "muted": self.muted}
        return Style(color=hues[role], bold=role in ("bad", "warn") or None)

    def theme(self) -> Theme:
        """The same for Textual."""
        return Theme(
            name=self.name,
            dark=self.is_dark,
            primary=self.accent,
            secondary=self.muted,
            accent=self.accent,
            warning=self.warn,
            error=self.bad,
            success=self.ok,
            foreground=self.text,
            background=self.background,
            surface=self.background,
            panel=self.surface,
            variables={"muted": self.muted, "row-cursor": self.cursor},
        )


DARK = Palette(
    name="preble-dark",
    is_dark=True,
    background="#11151a",
    surface="#1b2129",
    cursor="#264156",
    text="#d7dde4",
    muted="#808b98",
    ok="#3fc1a2",
    warn="#f0b429",
    bad="#ff7a45",
    accent="#6cb8f0",
    series=("#6cb8f0", "#f0b429", "#3fc1a2", "#e08cc0", "#ff7a45", "#d7dde4"),
)
LIGHT = Palette(
    name="preble-light",
    is_dark=False,
    background="#fbfbf8",
    surface="#eceef0",
    cursor="#cfe3f4",
    text="#20262d",
    muted="#646d77",
    ok="#007256",
    warn="#8a5a00",
    bad="#b83a00",
    accent="#0063a3",
    series=("#0063a3", "#a86e00", "#007a5c", "#a03c7c", "#b83a00", "#20262d"),
)
PALETTES = {palette.name: palette for palette in (DARK, LIGHT)}


class WithoutColour(LineFilter):
    """Takes every colour away and leaves bold, dim and reverse, for `NO_COLOR`."""

    def apply(self, segments: list[Segment], background: TextualColor) -> list[Segment]:
        """What is left of a line."""
        return [
            segment if segment.style is None else Segment(segment.text, _plain(segment.style), segment.control)
            for segment in segments
        ]


class AsciiOnly(LineFilter):
    """Replaces what terminals without Unicode cannot show, for `--ascii`."""

    def apply(self, segments: list[Segment], background: TextualColor) -> list[Segment]:
        """The line in ASCII."""
        return [Segment(fmt.to_ascii(segment.text), segment.style, segment.control) for segment in segments]


def _plain(style: Style) -> Style:
    return Style(
        color=Color.default(),
        bgcolor=Color.default(),
        bold=style.bold,
        dim=style.dim,
        italic=style.italic,
        underline=style.underline,
        reverse=style.reverse,
    )

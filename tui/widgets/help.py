"""What keys do on a screen, from the key table."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from preble.tui import keys as key_table

FILTER_HELP = (
    "Filters: terms stand apart by blanks, and all of them have to match. tenant:acme is the whole value, tenant:a* a "
    "pattern, ttft>1s and hit<40% compare, a word is looked for everywhere, - in front turns a term around. "
    "The columns are the fields; their units are understood: ms, s, min, %, k, M."
)


class Help(ModalScreen[None]):
    """Over the screen that it is about."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q", "dismiss(None)", show=False)]

    def __init__(self, screen: key_table.Screen, *, can_write: bool) -> None:
        super().__init__()
        self._screen = screen
        self._can_write = can_write

    def compose(self) -> ComposeResult:
        """The keys by what they are for."""
        with VerticalScroll(classes="box", id="help"):
            yield Static(f"Keys on {key_table.TITLES[self._screen]}", classes="box-title", markup=False)
            yield Static(help_text(self._screen, can_write=self._can_write))


def help_text(screen: key_table.Screen, *, can_write: bool) -> Text:
    """All keys of a screen; those that change something are dim where nothing may be changed."""
    text = Text()
    for group, title in key_table.GROUP_TITLES.items():
        keys = [key for key in key_table.keys_of(screen) if key.group == group]
        if keys:
            text.append(f"{title}\n", "bold")
        for key in keys:
            names = " ".join(key_table.shown(name) for name in key.keys)
            text.append(f"  {names:<14} {key.help}\n", "dim" if key.changes and not can_write else "")
    text.append(f"\n{FILTER_HELP}\n")
    return text

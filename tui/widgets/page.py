"""A page of text."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from preble.tui import format as fmt


class TextPage(ModalScreen[None]):
    """Text as it is but for what terminals would obey."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss(None)", show=False),
        Binding("y", "copy", show=False),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = "\n".join(fmt.clean(line) for line in text.splitlines())

    def compose(self) -> ComposeResult:
        """The title and the text."""
        with VerticalScroll(classes="box page"):
            yield Static(f"{self._title}   (y copies, esc: back)", classes="box-title", markup=False)
            yield Static(self._text, markup=False)

    def action_copy(self) -> None:
        """Copy what is shown: a paste is obeyed too."""
        self.app.copy_to_clipboard(self._text)
        self.notify("copied")

"""Asks for one value."""

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static


class Ask(ModalScreen[str | None]):
    """Gives what was typed, once `check` takes it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", show=False)]

    def __init__(self, question: str, now: str, check: Callable[[str], Any]) -> None:
        super().__init__()
        self._question = question
        self._now = now
        self._check = check

    def compose(self) -> ComposeResult:
        """The question and the line to answer it."""
        with Vertical(classes="box"):
            yield Static(self._question, classes="box-title", markup=False)
            yield Input(self._now)
            yield Static("enter goes on, esc leaves it", id="fault", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Check it."""
        try:
            self._check(event.value)
        except ValueError as error:
            self.query_one("#fault", Static).update(f"not that: {error}")
        else:
            self.dismiss(event.value)

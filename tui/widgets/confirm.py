"""Asks before anything is changed: what the daemon says would come of it, and the command that does the same."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from preble.daemon.errors import PrebleError
from preble.daemon.wire.accounts import PlannedChange
from preble.tui import format as fmt
from preble.tui.actions import Change, differences
from preble.tui.working import start

if TYPE_CHECKING:
    from preble.tui.app import Console


class Confirm(ModalScreen[str | None]):
    """Gives what came of it in one line, or None if nothing was done. Cancel has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
        Binding("y", "copy", show=False),
    ]
    AUTO_FOCUS = "#cancel"

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change
        self.planned: PlannedChange | None = None
        self._planned_s = 0.0
        self._is_busy = False

    @property
    def console(self) -> "Console":
        """The app."""
        return cast("Console", self.app)

    def compose(self) -> ComposeResult:
        """The dialog."""
        change = self.change
        with Vertical(classes="box", id="confirm"):
            yield Static(fmt.clean(change.title), classes="box-title", markup=False)
            yield Static("asking the daemon what it would do …", id="effect", markup=False)
            yield Static("", id="age", markup=False)
            yield Static(f"same as: {change.command}   (y copies it)", id="command", markup=False)
            if change.is_worst:
                yield Input(placeholder=f"type {change.target} to go on", id="typed", select_on_focus=False)
            with Horizontal(id="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button(change.button or change.action.capitalize(), id="do", variant="error", disabled=True)

    def on_mount(self) -> None:
        """Ask for the effect."""
        start(self, self._plan, group="ask")

    def draw(self) -> None:
        """Show how old the effect is, and whether it may still be done."""
        if self.planned is None or self._is_busy:
            return
        refusal = self.console.refusal(self.change)
        text = f"computed {fmt.age(self.console.now() - self._planned_s)} ago · feed {self.console.freshness.word}"
        self.query_one("#age", Static).update(refusal or text)
        self.query_one("#do", Button).disabled = refusal is not None or not self._is_typed()

    def on_key(self, event: Key) -> None:
        """Whoever begins to type the name, types it where it belongs."""
        text = event.character or ""
        if self.change.is_worst and event.is_printable and not text.isspace() and isinstance(self.focused, Button):
            field = self.query_one("#typed", Input)
            field.focus()
            field.insert_text_at_cursor(text)
            event.stop()

    def on_input_changed(self) -> None:
        """Whether the name is right."""
        self.draw()

    async def on_input_submitted(self) -> None:
        """Enter after the name goes on to the button, it does not press it."""
        if self._is_typed():
            self.query_one("#do", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do it, or not."""
        if event.button.id == "cancel":
            self.dismiss(None)
        elif not self._is_busy:
            self._is_busy = True
            start(self, self._do, group="ask")

    def action_copy(self) -> None:
        """Copy the command."""
        self.console.copy(self.change.command)
        self.notify("copied the command")

    def _is_typed(self) -> bool:
        return not self.change.is_worst or self.query_one("#typed", Input).value.strip() == self.change.target

    async def _plan(self) -> None:
        effect = self.query_one("#effect", Static)
        try:
            planned = await self.console.desk.plan(self.change.call)
        except PrebleError as error:
            effect.update(f"the daemon refuses: {fmt.clean(str(error))}")
            return
        self.planned, self._planned_s = planned, self.console.now()
        effect.update("\n".join(fmt.clean(line) for line in effect_of(planned)))
        self.draw()

    async def _do(self) -> None:
        refusal = self.console.refusal(self.change)  # the feed may have been lost since the button was drawn
        if refusal is not None:
            self._is_busy = False
            self.draw()
            return
        self.query_one("#do", Button).disabled = True
        self.query_one("#age", Static).update("at it …")
        try:
            await self.console.desk.do(self.change.call)
        except PrebleError as error:
            self.dismiss(f"{self.change.title}: {error}")
        else:
            self.dismiss(f"{self.change.title}: done; the audit has it (preble audit)")


def effect_of(planned: PlannedChange) -> list[str]:
    """What the daemon says would come of a change."""
    changes = differences(planned)
    if not changes and (planned.after is not None or not planned.effect):
        changes = ["nothing would change: it is so already"]
    return [*planned.effect, *([""] if planned.effect and changes else []), *changes]

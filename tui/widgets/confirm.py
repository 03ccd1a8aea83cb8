"""Asks before anything is changed: what the daemon says would come of it, and the command that does the same."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from preble.daemon.errors import PrebleError
from preble.daemon.wire.accounts import PlannedChange
from preble.daemon.wire.console import NoEntry
from preble.tui import format as fmt
from preble.tui.actions import Change, differences
from preble.tui.working import start

if TYPE_CHECKING:
    from preble.tui.app import Console


_AROUND_LINES, _TYPED_LINES = 12, 3
"""Of the dialog, what is not the effect; and the field for the name."""
_GOOD_FOR_S = 5.0
"""How long a plan may be acted on without asking for it again."""


class Confirm(ModalScreen[str | None]):
    """Gives what came of it in one line, or None if nothing was done. Cancel has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("y", "copy", show=False),
    ]
    AUTO_FOCUS = "#cancel"

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change
        self.planned: PlannedChange | None = None
        self._planned_s = 0.0
        self._boot_id: str | None = None
        """Of the daemon that the plan is of."""
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
            with VerticalScroll(id="effects", can_focus=False):
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

    def on_resize(self) -> None:
        """However long the effect is, the buttons stay in sight."""
        room = self.size.height - _AROUND_LINES - _TYPED_LINES * self.change.is_worst
        self.query_one("#effects").styles.max_height = max(room, 3)

    def action_page(self, pages: int) -> None:
        """Scroll the effect, where it is longer than there is room."""
        effects = self.query_one("#effects")
        effects.scroll_relative(y=pages * effects.size.height, animate=False)

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
        """Ask what it would do, and show that."""
        effect, shown, boot_id = self.query_one("#effect", Static), self.planned, self._daemon_now()
        try:
            self.planned = await self.console.desk.plan(self.change.call)
        except PrebleError as error:
            self.planned = None
            effect.update(f"the daemon refuses: {fmt.clean(str(error))}")
            self.query_one("#age", Static).update("")
            return
        self._planned_s, self._boot_id = self.console.now(), boot_id
        effect.update("\n".join(fmt.clean(line) for line in effect_lines(self.planned, shown)))
        self.draw()

    def _daemon_now(self) -> str | None:
        snapshot = self.console.state.snapshot
        return None if snapshot is None else snapshot.boot_id

    def _is_old(self) -> bool:
        """Whether the plan is too old to go by, or another daemon's."""
        return self._boot_id != self._daemon_now() or self.console.now() - self._planned_s > _GOOD_FOR_S

    async def _do(self) -> None:
        """Do what was shown; whatever would come of it by now and was not, is shown first, and asked about again."""
        shown = self.planned
        self.query_one("#do", Button).disabled = True
        if shown is not None and self._is_old():
            self.query_one("#age", Static).update("asking the daemon again …")
            await self._plan()
        refusal = self.console.refusal(self.change)  # the feed may have been lost since the button was drawn
        if shown is None or self.planned is None or refusal is not None or effect_of(self.planned) != effect_of(shown):
            self._ask_again()
            return
        self.query_one("#age", Static).update("at it …")
        try:
            number = await self.console.desk.do(self.change.call)
        except NoEntry as error:
            self.dismiss(f"{self.change.title}: done; its entry in the audit cannot be read: {error}")
        except PrebleError as error:
            self.dismiss(f"{self.change.title}: {error}")
        else:
            entry = "nothing was changed, so the audit has no entry" if number is None else f"audit entry {number}"
            self.dismiss(f"{self.change.title}: done; {entry}")

    def _ask_again(self) -> None:
        self._is_busy = False
        self.query_one("#cancel", Button).focus()
        self.draw()


def effect_lines(planned: PlannedChange, shown: PlannedChange | None) -> list[str]:
    """What is shown of a plan; if another was shown before, with marks where it differs."""
    lines, before = effect_of(planned), [] if shown is None else effect_of(shown)
    if shown is None or lines == before:
        return lines
    marked = [line if line in before else f"▲ {line}" for line in lines]
    return ["By now something else would come of it, and nothing was done:", "", *marked]


def effect_of(planned: PlannedChange) -> list[str]:
    """What the daemon says would come of a change."""
    changes = differences(planned)
    if not changes and (planned.after is not None or not planned.effect):
        changes = ["nothing would change: it is so already"]
    return [*planned.effect, *([""] if planned.effect and changes else []), *changes]

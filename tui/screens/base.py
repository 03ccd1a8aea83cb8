"""What all screens have: the feed's state, tabs, the keys at the bottom, tables with filter and sort."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from preble.tui import format as fmt
from preble.tui import keys as key_table
from preble.tui.keys import Key
from preble.tui.query import EVERYTHING, QueryError, parse
from preble.tui.roles import Cell, Part, Role, cell
from preble.tui.state import ConsoleState, Freshness
from preble.tui.widgets.choose import Choose, ChooseColumn, ChooseColumns
from preble.tui.widgets.lines import Bar, Lines
from preble.tui.widgets.table import LiveTable
from preble.tui.writing import FORMATS, sheet_of

if TYPE_CHECKING:
    from preble.tui.app import Console


def bindings_of(keys: Iterable[Key]) -> list[Binding]:
    """Textual's bindings for keys of the table."""
    return [
        Binding(",".join(key.keys), key.action, key.label, show=False, id=key.action, tooltip=key.help) for key in keys
    ]


class BaseScreen(Screen[None]):
    """One of the eight. Subclasses give its `body`, and `show` what the console knows."""

    NAME: ClassVar[key_table.Screen]
    AUTO_FOCUS = "LiveTable"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "NAME" in cls.__dict__:
            cls.BINDINGS = list(bindings_of(key_table.keys_of(cls.NAME)))  # before Textual merges them
        super().__init_subclass__(**kwargs)

    def __init__(self) -> None:
        super().__init__()
        self.note: str = ""
        """A line about the latest action or fault, above the keys."""

    @property
    def console(self) -> "Console":
        """The app."""
        return cast("Console", self.app)

    @property
    def table(self) -> "LiveTable[Any] | None":
        """The table that keys are for: the one with the focus, else the first."""
        if isinstance(self.focused, LiveTable):
            return self.focused
        return next(iter(self.query(LiveTable)), None)

    @property
    def selected(self) -> Any:
        """The row under the cursor."""
        return None if self.table is None else self.table.rows.current

    def body(self) -> ComposeResult:
        """What is between the bars."""
        raise NotImplementedError

    def show(self, view: ConsoleState) -> None:
        """Put what is known into the widgets."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """The bars, and the body between them."""
        yield Bar(id="status")
        yield Bar(id="tabs")
        with Container(id="body"):
            yield from self.body()
        yield Input(id="filter", placeholder="tenant:acme ttft>1s -mode:explore text", select_on_focus=False)
        yield Bar(id="note")
        yield Bar(id="keys")

    def on_mount(self) -> None:
        """Show what is known at once."""
        self.query_one("#filter").display = False
        self.draw()

    def on_screen_resume(self) -> None:
        """It is in front again."""
        self.draw()

    def on_resize(self) -> None:
        """Bars are laid out by their width."""
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Show what the console knows now."""
        if not self.is_mounted or not self.query("#keys"):
            return
        view, fresh = self.console.view, self.console.freshness
        for widget in self.query(Widget):
            if isinstance(widget, LiveTable | Lines):
                widget.palette = self.console.palette
                widget.is_dimmed = fresh.is_old
        self.set_class(self.size.width >= 110, "-wide")
        self.set_class(self.size.height >= 34, "-tall")
        self._draw_bars(view, fresh)
        self.show(view)

    def tell(self, text: str) -> None:
        """Say something in the line above the keys, until something else is said."""
        self.note = text
        self.draw()

    def may_change(self) -> bool:
        """Whether anything may be changed now; says why not."""
        refusal = self.console.refusal()
        if refusal is not None:
            self.tell(refusal)
        return refusal is None

    # What keys do, on every screen.

    def action_go(self, screen: key_table.Screen) -> None:
        """Go to a screen."""
        self.console.go(screen)

    def action_back(self) -> None:
        """End the filter, or go back."""
        table = self.table
        box = self.query_one("#filter", Input)
        if box.display and table is not None and (self.focused is box or table.rows.query.text):
            self.set_filter("")
            return
        self.console.back()

    def action_previous(self) -> None:
        """The screen before."""
        self.console.previous()

    def action_open(self) -> None:
        """Go deeper at the cursor."""
        if self.table is not None and self.selected is not None:
            self.table.post_message(LiveTable.Opened(self.table))

    def action_move(self, rows: int) -> None:
        """Move the cursor."""
        if self.table is not None:
            self.table.move_by(rows)

    def action_page(self, pages: int) -> None:
        """Move the cursor by screenfuls."""
        if self.table is not None:
            self.table.move_by(pages * self.table.height)

    def action_first(self) -> None:
        """To the first row."""
        if self.table is not None:
            self.table.move_to(0)

    def action_last(self) -> None:
        """To the last row."""
        if self.table is not None:
            self.table.move_to(-1)

    def action_filter(self) -> None:
        """Open the filter's line."""
        box = self.query_one("#filter", Input)
        box.display = True
        box.value = self.table.rows.query.text if self.table is not None else ""
        box.focus()

    def set_filter(self, text: str) -> None:
        """Filter the table as if this had been typed; nothing ends the filter."""
        box, table = self.query_one("#filter", Input), self.table
        box.display = bool(text)
        with self.prevent(Input.Changed):
            box.value = text
        if table is not None:
            table.filter(parse(text, table.rows.names) if text else EVERYTHING)
            table.focus()
        self.tell("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed; what cannot be read yet leaves the filter as it is."""
        table = next(iter(self.query(LiveTable)), None) if self.table is None else self.table
        if event.input.id != "filter" or table is None:
            return
        try:
            table.filter(parse(event.value, table.rows.names))
        except QueryError as error:
            self.tell(f"filter: {error}")
        else:
            self.tell("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the table, with the filter."""
        if event.input.id == "filter" and self.table is not None:
            event.input.display = bool(event.value.strip())
            self.table.focus()

    def action_sort(self) -> None:
        """Ask for the column."""
        self._ask_column(add=False)

    def action_sort_more(self) -> None:
        """Ask for one more column."""
        self._ask_column(add=True)

    def action_columns(self) -> None:
        """Ask which columns to show."""
        table = self.table
        if table is None:
            return

        def done(hidden: set[str] | None) -> None:
            if hidden is not None:
                table.hidden = hidden
                table.lay_out()

        self.app.push_screen(ChooseColumns(table), done)

    def action_mark(self) -> None:
        """Mark the row, and go to the next."""
        if self.table is not None:
            self.table.rows.mark()
            self.table.move_by(1)

    def action_pause(self) -> None:
        """Hold what is shown, or no longer."""
        self.console.pause()

    def action_follow(self) -> None:
        """Stay at the newest row."""
        if self.table is not None:
            self.table.follow(not self.table.follows)
            self.draw()

    def action_copy(self) -> None:
        """Copy names."""
        if self.table is not None and (rows := self.table.rows.chosen()):
            text = "\n".join(self.name_of(row) for row in rows)
            self.console.copy(text)
            self.tell(f"copied {fmt.shorten(fmt.clean(text), 60)}")

    def action_copy_json(self) -> None:
        """Copy rows as JSON."""
        if self.table is not None and (rows := self.table.rows.chosen()):
            self.console.copy("\n".join(as_json(row) for row in rows))
            self.tell(f"copied {len(rows)} as JSON")

    def action_write(self) -> None:
        """Ask how to write what is shown now, or of it what is marked, and write it to a file."""
        table = self.table
        if table is None:
            return
        sheet = sheet_of(table.rows, table.hidden, self.NAME, self.console.view.at)

        def chosen(name: str | None) -> None:
            if name is not None:
                self.tell(self.console.write(sheet, name))

        self.app.push_screen(Choose(f"Write {fmt.things(len(sheet.rows), 'row')} as what?", FORMATS), chosen)

    def action_explain(self) -> None:
        """Decisions about the row under the cursor."""
        place = self.decisions_of(self.selected) if self.selected is not None else None
        if place is not None:
            self.console.go("decisions", *place)

    def point_at(self, key: str) -> None:
        """Put the cursor on a row."""
        if self.table is not None and not self.table.put_on(key):
            self.tell(f"{key} is not here")

    def name_of(self, row: Any) -> str:
        """As commands want it."""
        return str(self.table.rows.key(row)) if self.table is not None else ""

    def decisions_of(self, row: Any) -> tuple[str, str | None] | None:
        """A filter of decisions, and the one to show, for a row."""
        return None

    def action_help(self) -> None:
        """What keys do here."""
        self.console.show_help(self.NAME)

    def action_slower(self) -> None:
        """Draw less often."""
        self.tell(self.console.change_pace(slower=True))

    def action_faster(self) -> None:
        """Draw more often."""
        self.tell(self.console.change_pace(slower=False))

    def action_theme(self) -> None:
        """Dark or light."""
        self.console.other_theme()

    def action_quit(self) -> None:
        """End the console."""
        self.app.exit()

    def action_command_palette(self) -> None:
        """Find an action by name."""
        self.app.action_command_palette()

    def _ask_column(self, *, add: bool) -> None:
        table = self.table
        if table is None:
            return

        def done(column: str | None) -> None:
            if column is not None:
                table.sort_by(column, add=add)

        self.app.push_screen(ChooseColumn(table, add=add), done)

    def _draw_bars(self, view: ConsoleState, fresh: Freshness) -> None:
        status, tabs = self.query_one("#status", Bar), self.query_one("#tabs", Bar)
        status.show_pieces(status_pieces(self.console, view, fresh), cell(fmt.clock(view.at) + "Z ", "muted"))
        gap = " " if self.size.width >= 90 else ""
        pieces: list[tuple[Cell, str | None]] = []
        for number, screen in enumerate(key_table.SCREENS, 1):
            role: Role = "title" if screen == self.NAME else "muted"
            pieces.append((cell(f" {number} {key_table.TITLES[screen]}{gap}", role), f"go('{screen}')"))
        tabs.show_pieces(pieces)
        note = self.query_one("#note", Bar)
        link = self.console.state.link
        fault = link.reason if link.kind == "lost" else ""
        note.display = bool(self.note or fault)
        note.show([cell(f" {fmt.clean(self.note or fault)}", "accent" if self.note else "bad")])
        self._draw_keys(fresh)

    def _draw_keys(self, fresh: Freshness) -> None:
        works = frozenset(key.action for key in key_table.keys_of(self.NAME) if self.works(key))
        can_write = self.console.can_write and not fresh.is_old
        pieces: list[tuple[Cell, str | None]] = []
        for key in key_table.footer_of(self.NAME, can_write=can_write, works=works):
            parts: tuple[Part, ...] = ((f" {key.shown}", "title"), (f" {key.label} ", "text"))
            pieces.append((parts, key.action))
        self.query_one("#keys", Bar).show_pieces(pieces)

    def works(self, key: Key) -> bool:
        """Whether a key does something here and now."""
        if key.action == "back":
            return self.console.can_go_back or bool(self.table is not None and self.table.rows.query.text)
        if key.action in ("open", "explain", "copy") or key.changes:
            return self.selected is not None
        return True


def status_pieces(console: "Console", view: ConsoleState, fresh: Freshness) -> Sequence[tuple[Cell, str | None]]:
    """The bar that every screen has: what is watched, how fresh it is, what may be done, what is wrong."""
    name = view.snapshot.name if view.snapshot is not None else console.target
    up = sum(1 for gpu in view.gpus.values() if gpu.state in GPU_UP)
    pieces: list[tuple[Cell, str | None]] = [
        (cell(f" preble ▸ {fmt.shorten(fmt.clean(name), 24)} ", "strong"), None),
        (cell(f" {freshness_text(console, view, fresh)} ", fresh.role), None),
        (cell(" write " if console.can_write else " read-only ", "warn" if console.can_write else "muted"), None),
        (cell(f" GPUs {up}/{len(view.gpus)} ", "ok" if up == len(view.gpus) else "bad"), "go('gpus')"),
    ]
    if view.alarms:
        worst: Part = (f" ▲ {len(view.alarms)} alarm{'s' * (len(view.alarms) != 1)} ", "bad")
        pieces.append(((worst,), "go('overview')"))
    if console.is_paused:
        pieces.append((cell(f" PAUSED +{fmt.count(console.changes_since_pause)} new ", "warn"), "pause"))
    return pieces


GPU_UP = frozenset({"ready", "draining"})


def freshness_text(console: "Console", view: ConsoleState, fresh: Freshness) -> str:
    """`● LIVE 0.4s` and the like, with when it is tried again, and whether the daemon is another one than before."""
    state, now_s = console.state, console.now()
    text = f"{fresh.glyph} {fresh.word}"
    if fresh is Freshness.LOST:
        if state.link.retry_at_s is not None:
            text += f", retry in {max(state.link.retry_at_s - now_s, 0):.0f}s"
    elif (age_s := state.age_s(now_s)) is not None and fresh is not Freshness.ENDED:
        text += f" {fmt.age(age_s)}"
    if state.restarted_s is not None and now_s - state.restarted_s < 60:
        text += f" · daemon restarted {fmt.age(now_s - state.restarted_s)} ago"
    return text


def as_json(row: Any) -> str:
    """A row as it was told, for the clipboard."""
    return msgspec.json.encode(row).decode()

"""The console: one feed, one state, eight screens. It never ends by itself, whatever becomes of the daemon."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.filter import LineFilter
from textual.screen import Screen

from preble.daemon.errors import PrebleError
from preble.tui import format as fmt
from preble.tui import keys as key_table
from preble.tui.actions import Change
from preble.tui.desk import Desk
from preble.tui.feed.source import Source
from preble.tui.screens.base import BaseScreen
from preble.tui.screens.decisions import DecisionsScreen
from preble.tui.screens.gpus import GpusScreen
from preble.tui.screens.logs import LogsScreen
from preble.tui.screens.overview import OverviewScreen
from preble.tui.screens.requests import RequestsScreen
from preble.tui.screens.templates import TemplatesScreen
from preble.tui.screens.tenants import TenantsScreen
from preble.tui.screens.tree import TreeScreen
from preble.tui.state import ConsoleState, Freshness, Link
from preble.tui.theme import DARK, LIGHT, PALETTES, AsciiOnly, Palette, WithoutColour
from preble.tui.widgets.confirm import Confirm
from preble.tui.widgets.help import Help
from preble.tui.working import start
from preble.tui.writing import Sheet

PACES_S = (0.25, 0.5, 1.0, 2.0, 5.0)
"""How often it can draw."""
_MOST_PLACES = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody was."""

    screen: key_table.Screen
    filter: str


@dataclass(slots=True, kw_only=True)
class Options:
    """How a console is to be."""

    target: str = "preble"
    """What is watched, until it says its own name."""
    can_write: bool = False
    palette: Palette = DARK
    ascii_only: bool = False
    writes_to: Path = field(default_factory=Path.cwd)
    """Where tables are written."""


class Console(App[None]):
    """The app. `now` is a clock that never goes back, in seconds."""

    TITLE = "preble"
    CSS_PATH = "preble.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "overview": OverviewScreen,
        "gpus": GpusScreen,
        "tree": TreeScreen,
        "tenants": TenantsScreen,
        "templates": TemplatesScreen,
        "requests": RequestsScreen,
        "logs": LogsScreen,
        "decisions": DecisionsScreen,
    }
    DEFAULT_MODE = "overview"

    def __init__(
        self,
        source: Source,
        desk: Desk,
        options: Options | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        draws_by_itself: bool = True,
    ) -> None:
        super().__init__()
        self.options = options or Options()
        self.desk = desk
        self.now = now
        self.state = ConsoleState()
        self.palette = self.options.palette
        self.copied: str | None = None
        """The latest that was copied."""
        self._source = source
        self._held: ConsoleState | None = None
        self._held_at = 0
        self._places: list[Place] = []
        self._before: key_table.Screen = "overview"
        self._pace = 1
        self._draws_by_itself = draws_by_itself
        for palette in PALETTES.values():
            self.register_theme(palette.theme())
        self.theme = self.palette.name

    @property
    def target(self) -> str:
        """What is watched."""
        return self.options.target

    @property
    def can_write(self) -> bool:
        """Whether anything may be changed at all."""
        return self.options.can_write

    @property
    def view(self) -> ConsoleState:
        """What is shown: the state, or what it was when somebody paused."""
        return self.state if self._held is None else self._held

    @property
    def freshness(self) -> Freshness:
        """Of the feed, whatever is shown."""
        return self.state.freshness(self.now())

    @property
    def is_paused(self) -> bool:
        """Whether what is shown is held."""
        return self._held is not None

    @property
    def changes_since_pause(self) -> int:
        """Changes of requests that came meanwhile."""
        return self.state.request_changes - self._held_at

    @property
    def can_go_back(self) -> bool:
        """Whether there is somewhere to go back to."""
        return bool(self._places)

    @property
    def base(self) -> BaseScreen | None:
        """The screen under all dialogs."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, BaseScreen)), None)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's, and ours for `NO_COLOR` and `--ascii`."""
        ours: list[LineFilter] = [WithoutColour()] if self.no_color else []
        return [*super().get_line_filters(), *ours, *([AsciiOnly()] if self.options.ascii_only else [])]

    def on_mount(self) -> None:
        """Read the feed, and draw."""
        self.set_class(self.no_color, "-no-color")
        start(self, self._read)
        if self._draws_by_itself:
            self._timer = self.set_interval(PACES_S[self._pace], self.draw)

    def draw(self) -> None:
        """Show what is known now. However much has come since the last time, it costs one screenful."""
        for screen in self.screen_stack:
            if isinstance(screen, BaseScreen | Confirm):
                screen.draw()

    def go(self, screen: key_table.Screen, query: str | None = None, key: str | None = None) -> None:
        """Go to a screen, with a filter or to a row if they are named; `back` comes back."""
        base = self.base
        if base is None or (screen == base.NAME and query is None and key is None):
            return
        table = base.table
        self._places.append(Place(base.NAME, table.rows.query.text if table is not None else ""))
        del self._places[:-_MOST_PLACES]
        self._before = base.NAME
        self._switch(screen, query, key)

    def back(self) -> None:
        """Where somebody came from."""
        base = self.base
        if self._places and base is not None:
            place = self._places.pop()
            self._before = base.NAME
            self._switch(place.screen, place.filter, None)

    def previous(self) -> None:
        """The screen before this one."""
        self.go(self._before)

    def pause(self) -> None:
        """Hold what is shown, or show what has come meanwhile."""
        if self._held is None:
            self._held, self._held_at = self.state.frozen(), self.state.request_changes
        else:
            self._held = None
        self.draw()

    def copy(self, text: str) -> None:
        """To the terminal's clipboard, which may refuse; OSC 52 says nothing of it."""
        self.copied = text
        self.copy_to_clipboard(text)

    def write(self, sheet: Sheet, format: str) -> str:
        """Write a table to a new file, as one of `FORMATS`; says where, or why not."""
        moment = fmt.point(sheet.as_of) or datetime.now(UTC)
        path = self.options.writes_to / f"preble-{sheet.screen}-{moment:%Y%m%dT%H%M%SZ}.{format}"
        try:
            with path.open("xb") as file:
                file.write(sheet.encoded(format))
        except OSError as error:
            return f"{path.name} cannot be written: {error.strerror}"
        return f"wrote {fmt.things(len(sheet.rows), 'row')} to {path.name}"

    def change_pace(self, *, slower: bool) -> str:
        """Draw less or more often; says how often."""
        self._pace = min(max(self._pace + (1 if slower else -1), 0), len(PACES_S) - 1)
        if self._draws_by_itself:
            self._timer.stop()
            self._timer = self.set_interval(PACES_S[self._pace], self.draw)
        return f"drawn every {PACES_S[self._pace]:g} s"

    def other_theme(self) -> None:
        """Dark or light."""
        self.palette = LIGHT if self.palette.is_dark else DARK
        self.theme = self.palette.name
        self.draw()

    def show_help(self, screen: key_table.Screen) -> None:
        """What keys do there."""
        self.push_screen(Help(screen, can_write=self.can_write))

    def confirm(self, change: Change) -> None:
        """Show what a change would do, and do it if somebody says so."""
        base = self.base
        if base is None:
            return
        refusal = self.refusal(change)
        if refusal:
            base.tell(refusal)
            return
        self.push_screen(Confirm(change), self._answered)

    def refusal(self, change: Change | None = None) -> str | None:
        """Why a change may not be made now, or none at all; None: it may."""
        if not self.can_write:
            return "read-only: start preble-tui with --write to change anything"
        fresh = self.freshness
        if fresh.is_old:
            return f"not while the data is {fresh.word}: what you see may not be so any more"
        if change is not None and not change.is_there():
            return f"{change.target} is not there any more"
        return None

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every key of the screen, for the palette."""
        base = self.base
        if base is None:
            return
        for key in key_table.keys_of(base.NAME):
            if key.action == "command_palette" or (key.changes and not self.can_write):
                continue
            yield SystemCommand(f"{key.label} ({key.shown})", key.help, self._command(base, key.action))

    def _command(self, base: BaseScreen, action: str) -> Callable[[], Any]:
        def run() -> None:
            self.run_worker(base.run_action(action))

        return run

    def _switch(self, screen: key_table.Screen, query: str | None, key: str | None) -> None:
        async def switch() -> None:
            await self.switch_mode(screen)
            base = self.base
            if base is None:
                return
            if query is not None:
                base.set_filter(query)
            base.draw()
            if key is not None:
                base.point_at(key)

        self.run_worker(switch(), name="switch")

    def _answered(self, result: str | None) -> None:
        if result and self.base is not None:
            self.base.tell(result)

    async def _read(self) -> None:
        """Fold events for ever. A fault in what is read is told as a lost feed; it ends nothing."""
        try:
            async for item in self._source.items():
                if isinstance(item, Link):
                    self.state.connect(item)
                else:
                    self.state.fold(item, self.now())
        except (OSError, ValueError, PrebleError) as error:
            self.state.connect(Link("lost", str(error) or type(error).__name__))

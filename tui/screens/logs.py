"""The daemon's log, newest first."""

import msgspec
from textual.app import ComposeResult

from preble.daemon.wire.live import LogLine
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.roles import Part, Role
from preble.tui.rows import Column
from preble.tui.screens.base import BaseScreen
from preble.tui.state import ConsoleState
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.page import TextPage
from preble.tui.widgets.table import LiveTable

LEVELS = ("debug", "info", "warning", "error", "critical")
_ROLES: dict[str, Role] = {"debug": "muted", "info": "ok", "warning": "warn", "error": "bad", "critical": "bad"}

NumberedLine = tuple[int, LogLine]


def fields_text(line: LogLine) -> str:
    """`name=value` of each field."""
    return " ".join(f"{name}={value}" for name, value in line.fields.items())


def log_columns() -> list[Column[NumberedLine]]:
    """All there are."""
    return [
        col.text("time", "time", 10, lambda row: row[1].at, shown=_time, role="muted"),
        col.text("level", "level", 8, lambda row: row[1].level, role=lambda row: _ROLES.get(row[1].level, "text")),
        col.text("event", "event", 24, lambda row: row[1].event, role="strong"),
        col.text("gpu", "GPU", 6, lambda row: row[1].fields.get("gpu"), is_hidden=True),
        col.text("tenant", "tenant", 10, lambda row: row[1].fields.get("tenant"), is_hidden=True),
        col.text("id", "request", 12, lambda row: row[1].fields.get("request_id"), is_hidden=True),
        col.text("fields", "fields", 20, lambda row: fields_text(row[1]), widest=1000),
    ]  # fmt: skip


def _time(row: NumberedLine) -> str:
    return fmt.clock(row[1].at, tenths=True)


class LogsScreen(BaseScreen):
    """`7`."""

    NAME = "logs"

    def __init__(self) -> None:
        super().__init__()
        self.least = "debug"

    def body(self) -> ComposeResult:
        """What is shown of how many, and the table."""
        yield Lines(id="tail")
        yield LiveTable(log_columns(), lambda row: row[0], follows=True, empty="nothing logged yet")

    def show(self, view: ConsoleState) -> None:
        """Newest first, from the chosen level on."""
        table = self.query_one(LiveTable)
        least = LEVELS.index(self.least)
        table.show(row for row in reversed(view.logs) if _rank(row[1].level) >= least)
        parts: list[Part] = [
            (" FOLLOW " if table.follows else " follow off (f) ", "ok" if table.follows else "warn"),
            (f" from {self.least} on", "text"),
            (f"   showing {fmt.count(len(table.rows.shown))} of {fmt.count(len(view.logs))}", "text"),
            (f"   not told {fmt.count(view.dropped_logs)}", "warn" if view.dropped_logs else "muted"),
        ]
        new = self.console.state.log_changes - view.log_changes
        if new:
            parts.append((f"   +{fmt.count(new)} new", "warn"))
        self.query_one("#tail", Lines).show([tuple(parts)])

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """The whole line."""
        row = event.table.rows.current
        if row is not None:
            text = msgspec.json.format(msgspec.json.encode(row[1])).decode()
            self.app.push_screen(TextPage(f"Log line of {fmt.clock(row[1].at, tenths=True)}", text))

    def action_level(self) -> None:
        """From the next level on."""
        self.least = LEVELS[(LEVELS.index(self.least) + 1) % (len(LEVELS) - 1)]
        self.draw()


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)

"""Requests as they come and go, newest first; `enter` shows one's time, `e` why it went where it went."""

from textual.app import ComposeResult

from preble.daemon.wire.live import LiveRequest
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.actions import cancel_request
from preble.tui.roles import Part, Role
from preble.tui.rows import Column
from preble.tui.screens.base import BaseScreen
from preble.tui.screens.request import RequestPage
from preble.tui.state import ConsoleState
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.table import LiveTable

ENDS = ("finished", "failed", "cancelled", "refused")
_SIGNS = {
    "waiting": "○", "running": "◐", "streaming": "●", "finished": "✓", "failed": "✕", "cancelled": "✕", "refused": "✕"
}  # fmt: skip
_ROLES: dict[str, Role] = {
    "waiting": "warn",
    "running": "accent",
    "streaming": "accent",
    "finished": "ok",
    "failed": "bad",
    "cancelled": "muted",
    "refused": "bad",
}


def hit_ratio(row: LiveRequest) -> float | None:
    """Of its prompt, the share that was found cached; before that is known, what was predicted."""
    cached = row.cached_tokens if row.cached_tokens is not None else row.predicted_cached_tokens
    return None if cached is None or not row.prompt_tokens else cached / row.prompt_tokens


def request_columns() -> list[Column[LiveRequest]]:
    """All there are."""
    return [
        col.text(
            "time", "time", 10, lambda row: row.at, shown=lambda row: fmt.clock(row.at, tenths=True), role="muted"
        ),
        col.text("id", "request", 12, lambda row: row.request_id, role="strong", widest=40),
        col.text("tenant", "tenant", 10, lambda row: row.tenant, widest=24),
        col.text("template", "template", 14, lambda row: row.template, widest=32, priority=6),
        col.number("prompt", "prompt", 6, lambda row: row.prompt_tokens, fmt.milliseconds, priority=3),
        col.percent("hit", "hit %", 5, hit_ratio),
        col.text("gpu", "GPU", 6, lambda row: row.gpu, widest=12),
        col.text("mode", "mode", 12, lambda row: row.mode, priority=4),
        col.milliseconds("wait", "wait ms", 7, lambda row: row.queue_ms, role=col.above(1000, 10_000), priority=5),
        col.milliseconds("ttft", "TTFT ms", 7, lambda row: row.ttft_ms, role=col.above(2000, 20_000)),
        col.milliseconds("latency", "total ms", 8, lambda row: row.latency_ms, priority=7),
        col.number("out", "out", 5, lambda row: row.output_tokens, fmt.count, priority=8),
        col.text("state", "state", 11, lambda row: row.state, role=_state_role, shown=_state_text),
        col.number("attempts", "tries", 5, lambda row: row.attempts, fmt.count, priority=9),
        col.text("model", "model", 14, lambda row: row.model, widest=30, priority=11),
        col.text("error", "error", 20, lambda row: row.error, role="bad", widest=80, priority=10),
    ]


def _state_role(row: LiveRequest) -> Role:
    return _ROLES[row.state]


def _state_text(row: LiveRequest) -> str:
    return f"{_SIGNS[row.state]} {row.state}"


class RequestsScreen(BaseScreen):
    """`6`."""

    NAME = "requests"

    def body(self) -> ComposeResult:
        """What is shown of how many, and the table."""
        yield Lines(id="tail")
        yield LiveTable(request_columns(), lambda row: row.request_id, follows=True, empty="no request yet")

    def show(self, view: ConsoleState) -> None:
        """Newest first."""
        table = self.query_one(LiveTable)
        table.show(reversed(view.requests.values()))
        rate = view.traffic.arrived_per_s if view.traffic is not None else None
        parts: list[Part] = [
            (" FOLLOW " if table.follows else " follow off (f) ", "ok" if table.follows else "warn"),
            (f" showing {fmt.count(len(table.rows.shown))} of {fmt.count(len(view.requests))}", "text"),
            (f"   {fmt.number(rate)} /s arrive", "muted"),
            (f"   not told {fmt.count(view.dropped_requests)}", "warn" if view.dropped_requests else "muted"),
            (f"   left the list {fmt.count(view.forgotten_requests)}", "muted"),
        ]
        if self.console.is_paused:
            parts.append((f"   +{fmt.count(self.console.changes_since_pause)} new", "warn"))
        self.query_one("#tail", Lines).show([tuple(parts)])

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """Its time."""
        self.app.push_screen(RequestPage(str(event.table.rows.cursor)))

    def decisions_of(self, row: LiveRequest) -> tuple[str, str | None]:
        """Its own."""
        return "", row.request_id

    def action_cancel(self) -> None:
        """Cancel the one under the cursor."""
        if self.selected is None:
            return
        name = self.selected.request_id  # taken now: the cursor may be elsewhere when it is done

        def is_there() -> bool:
            row = self.console.state.requests.get(name)
            return row is not None and row.state not in ENDS

        self.console.confirm(cancel_request(name, is_there))

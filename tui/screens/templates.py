"""Registered prompt templates: how much they save, and where they are warm."""

from textual.app import ComposeResult
from textual.containers import Vertical

from preble.daemon.wire.live import LiveTemplate
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.actions import order_template
from preble.tui.roles import Cell, Role
from preble.tui.rows import Column, SortBy
from preble.tui.screens.base import BaseScreen
from preble.tui.state import ConsoleState
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.table import LiveTable

_SIGNS: dict[str, tuple[str, Role]] = {
    "warm": ("█", "ok"),
    "partial": ("▒", "warn"),
    "warming": ("░", "accent"),
    "stale": ("×", "bad"),
    "cold": ("·", "muted"),
}


class TemplatesScreen(BaseScreen):
    """`5`."""

    NAME = "templates"

    def body(self) -> ComposeResult:
        """The table and the details."""
        columns: list[Column[LiveTemplate]] = [
            col.text("template", "template", 16, lambda row: row.name, role="strong", grows=True),
            col.number("version", "ver", 4, lambda row: row.version, fmt.count, priority=5),
            col.text("owner", "owner", 12, lambda row: row.owner, priority=4),
            col.number("tokens", "tokens", 7, lambda row: row.cacheable_tokens, fmt.milliseconds),
            col.number("requests", "req/min", 7, lambda row: row.requests_per_min),
            col.percent("hit", "hit %", 5, lambda row: row.hit_ratio, role=col.below(0.6, 0.3)),
            Column(id="where", title="on GPUs", width=14, show=self._where, value=lambda row: float(_warm(row))),
            col.text("pinned", "pinned", 6, lambda row: "yes" if row.pinned else "no", role=_pinned_role, priority=2),
            col.number("saved", "saved tok/min", 14, lambda row: row.saved_tokens_per_min, priority=3),
        ]
        with Vertical():
            yield LiveTable(
                columns,
                lambda row: row.name,
                sort=(SortBy("saved", True),),
                empty="no registered template was used of late",
            )
            yield Lines(classes="detail below")

    def show(self, view: ConsoleState) -> None:
        """The table and the details."""
        self.query_one(LiveTable).show(view.templates.values())
        self._show_details(view)

    def on_live_table_moved(self) -> None:
        """Another one is chosen."""
        self._show_details(self.console.view)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """The requests that used it."""
        self.console.go("requests", f"template:{event.table.rows.cursor}")

    def decisions_of(self, row: LiveTemplate) -> tuple[str, str | None]:
        """Those of its requests."""
        return f"template:{row.name}", None

    def action_pin(self) -> None:
        """Pin the one under the cursor."""
        self._order("pin")

    def action_unpin(self) -> None:
        """Unpin the one under the cursor."""
        self._order("unpin")

    def action_warm(self) -> None:
        """Warm the one under the cursor."""
        self._order("warm")

    def _order(self, order: str) -> None:
        if self.selected is not None:
            row: LiveTemplate = self.selected  # taken now: the cursor may be elsewhere when it is done
            self.console.confirm(
                order_template(order, row.name, row.owner, lambda: row.name in self.console.state.templates)
            )

    def _where(self, row: LiveTemplate) -> Cell:
        gpus = sorted(self.console.view.gpus)
        count: Cell = ((f"{_warm(row)}/{len(gpus)} ", "text"),)
        return count + tuple(_SIGNS.get(row.states.get(gpu, "cold"), ("?", "warn")) for gpu in gpus)

    def _show_details(self, view: ConsoleState) -> None:
        lines = self.query_one(".detail", Lines)
        row = view.templates.get(self.selected.name) if self.selected is not None else None
        lines.border_title = fmt.clean(row.name) if row is not None else ""
        lines.show(details(row) if row is not None else [])


def _warm(row: LiveTemplate) -> int:
    return sum(1 for state in row.states.values() if state == "warm")


def _pinned_role(row: LiveTemplate) -> Role:
    return "accent" if row.pinned else "muted"


def details(row: LiveTemplate) -> list[Cell]:
    """Where it is, and what it saves."""
    states: list[tuple[str, Role]] = []
    for gpu, state in sorted(row.states.items()):
        sign, role = _SIGNS.get(state, ("?", "warn"))
        states += [(f"{gpu} ", "text"), (f"{sign} {state}   ", role)]
    legend: list[tuple[str, Role]] = []
    for state, (sign, role) in _SIGNS.items():
        legend += [(f"{sign} ", role), (f"{state}   ", "muted")]
    where: tuple[tuple[str, Role], ...] = tuple(states) or (("nowhere", "muted"),)
    return [
        ((" where     ", "muted"), *where),
        (
            (" saves     ", "muted"),
            (f"{fmt.number(row.saved_tokens_per_min)} prompt tokens/min, hit {fmt.percent(row.hit_ratio)} %", "text"),
        ),
        ((" owner     ", "muted"), (f"{fmt.clean(row.owner)}, version {row.version}", "text")),
        ((" signs     ", "muted"), *legend),
    ]

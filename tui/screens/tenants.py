"""Tenants: their shares, what they wait, what is refused; below, more about the one under the cursor."""

from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical

from preble.daemon.errors import PrebleError
from preble.daemon.wire.live import LiveTenant
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.actions import change_tenant, revoke_key
from preble.tui.columns import bar_cell
from preble.tui.roles import Cell, Role
from preble.tui.rows import Column, SortBy
from preble.tui.screens.base import BaseScreen
from preble.tui.state import ConsoleState
from preble.tui.widgets.ask import Ask
from preble.tui.widgets.choose import Choose
from preble.tui.widgets.lines import Lines, wrapped
from preble.tui.widgets.table import LiveTable
from preble.tui.working import start

SETTINGS = {
    "weight": "weight: its share, by those of the others",
    "requests_per_minute": "requests per minute",
    "input_tokens_per_minute": "prompt tokens per minute",
    "output_tokens_per_minute": "output tokens per minute",
    "concurrent_requests": "requests at once",
    "queued_requests": "requests waiting at once",
    "tokens_per_day": "tokens per day (UTC)",
    "tokens_per_month": "tokens per calendar month (UTC)",
    "max_prompt_tokens": "prompt tokens of one request",
    "max_output_tokens": "output tokens of one request",
}
"""What can be changed of a tenant here."""


def tenant_columns() -> list[Column[LiveTenant]]:
    """Those of the Overview and of the Tenants screen."""
    return [
        col.text("tenant", "tenant", 12, lambda row: row.tenant, role="strong", widest=40),
        col.text("priority", "priority", 11, lambda row: row.priority, priority=8),
        col.number("weight", "weight", 6, lambda row: row.weight, priority=6),
        col.percent("share", "share %", 7, lambda row: row.share_ratio),
        Column(
            id="sharebar", title="", width=8, show=lambda row: bar_cell(row.share_ratio, 8),
            value=lambda row: None, priority=9, is_drawn=True,
        ),
        Column(id="due", title="due %", width=7, show=_due, value=lambda row: _percent(row.due_ratio), right=True),
        col.number("run", "run", 5, lambda row: row.running, fmt.count, priority=2),
        col.number("wait", "wait", 5, lambda row: row.waiting, fmt.count, role=col.above(20, 100)),
        col.milliseconds("queue", "wait p99 ms", 11, lambda row: row.queue.p99_ms, priority=3),
        col.milliseconds("ttft", "TTFT p99 ms", 11, lambda row: row.ttft.p99_ms),
        col.number("tokens", "tok/min", 7, lambda row: row.tokens_per_min, priority=4),
        col.percent("hit", "hit %", 5, lambda row: row.hit_ratio, priority=5),
        col.percent("budget", "budget %", 8, lambda row: row.budget_used_ratio, role=col.above(0.8, 0.95), priority=7),
        col.number("refused", "refused", 7, _refused, fmt.count, role=col.above(1, 100), priority=6
        ),
        col.number("saved", "saved/min", 9, lambda row: row.saved_tokens_per_min, priority=11),
    ]  # fmt: skip


def _refused(row: LiveTenant) -> int:
    return sum(row.refused.values())


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else 100 * ratio


def _due(row: LiveTenant) -> Cell:
    share, due = row.share_ratio, row.due_ratio
    sign, role = " ", "text"
    if share is not None and due is not None and due > 0:
        if share > 1.25 * due:
            sign, role = "▲", "warn"
        elif share < 0.75 * due and row.waiting:
            sign, role = "▼", "bad"
    known: Role = role if due is not None else "muted"  # type: ignore[assignment]
    return ((f"{fmt.percent(due)} {sign}", known),)


class TenantsScreen(BaseScreen):
    """`4`."""

    NAME = "tenants"

    def body(self) -> ComposeResult:
        """The table and the details."""
        with Vertical():
            yield LiveTable(
                tenant_columns(),
                lambda row: row.tenant,
                sort=(SortBy("share", True),),
                empty="no tenant has asked for anything of late",
            )
            yield Lines(classes="detail below")

    def show(self, view: ConsoleState) -> None:
        """The table and the details."""
        self.query_one(LiveTable).show(view.tenants.values())
        self._show_details(view)

    def on_live_table_moved(self) -> None:
        """Another one is chosen."""
        self._show_details(self.console.view)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """Its requests."""
        self.console.go("requests", f"tenant:{event.table.rows.cursor}")

    def decisions_of(self, row: LiveTenant) -> tuple[str, str | None]:
        """Those of its requests."""
        return f"tenant:{row.tenant}", None

    def action_edit(self) -> None:
        """Ask what to change of the tenant under the cursor."""
        if self.selected is not None and self.may_change():
            start(self, self._edit, self.selected.tenant, group="ask")

    def action_revoke(self) -> None:
        """Ask which key of the tenant under the cursor to revoke."""
        if self.selected is not None and self.may_change():
            start(self, self._revoke, self.selected.tenant, group="ask")

    async def _edit(self, tenant: str) -> None:
        try:
            row = await self.console.desk.tenant(tenant)
        except PrebleError as error:
            self.tell(f"{tenant}: {error}")
            return
        if not self.is_current:
            return  # the operator is elsewhere by now
        now: dict[str, Any] = {"weight": row.weight} | {
            name: getattr(row.limits, name) for name in SETTINGS if name != "weight"
        }
        options = [(name, f"{label:<42} {_shown(now[name])}") for name, label in SETTINGS.items()]

        def chosen(setting: str | None) -> None:
            if setting is not None:
                question = f"{tenant}: {SETTINGS[setting]} (now {_shown(now[setting])})"
                check = read_weight if setting == "weight" else read_limit
                self.app.push_screen(Ask(question, _shown(now[setting]), check), lambda text: given(setting, text))

        def given(setting: str, text: str | None) -> None:
            if text is not None:
                value = read_weight(text) if setting == "weight" else read_limit(text)
                self.console.confirm(
                    change_tenant(tenant, setting, value, lambda: tenant in self.console.state.tenants)
                )

        self.app.push_screen(Choose(f"Change what of {tenant}?", options), chosen)

    async def _revoke(self, tenant: str) -> None:
        try:
            keys = [key for key in await self.console.desk.keys(tenant) if key.revoked_at is None]
        except PrebleError as error:
            self.tell(f"{tenant}: {error}")
            return
        if not self.is_current:
            return  # the operator is elsewhere by now
        if not keys:
            self.tell(f"{tenant} has no key that works")
            return
        options = [(key.id, fmt.clean(f"{key.id}  …{key.last4}  {key.name}")) for key in keys]

        def chosen(key_id: str | None) -> None:
            if key_id is not None:
                self.console.confirm(revoke_key(key_id, lambda: True))

        self.app.push_screen(Choose(f"Revoke which key of {tenant}?", options), chosen)

    def _show_details(self, view: ConsoleState) -> None:
        lines = self.query_one(".detail", Lines)
        row = view.tenants.get(self.selected.tenant) if self.selected is not None else None
        lines.border_title = row.tenant if row is not None else ""
        lines.show(details(row, max(lines.size.width, 30)) if row is not None else [])


def details(row: LiveTenant, width: int) -> list[Cell]:
    """All that is known of one, line by line."""
    refused = ", ".join(f"{name} {fmt.count(times)}" for name, times in row.refused.items()) or "nothing"
    credit = "–" if row.credit_ms is None else f"{row.credit_ms:+,.0f} ms".replace(",", " ")
    facts = [
        (
            "share",
            f"{fmt.share(row.share_ratio)} of time, due {fmt.share(row.due_ratio)} by weight {row.weight:g}, "
            f"credit {credit}, {row.priority}{', SUSPENDED' if row.suspended else ''}",
        ),
        (
            "TTFT",
            f"p50 {fmt.duration(row.ttft.p50_ms)}, p99 {fmt.duration(row.ttft.p99_ms)}, n {row.ttft.count}; "
            f"waited p50 {fmt.duration(row.queue.p50_ms)}, p99 {fmt.duration(row.queue.p99_ms)}",
        ),
        (
            "tokens",
            f"{fmt.number(row.tokens_per_min)}/min, hit {fmt.share(row.hit_ratio)}, "
            f"saved {fmt.number(row.saved_tokens_per_min)}/min, {fmt.number(row.requests_per_min)} requests/min",
        ),
        ("refused", refused),
    ]
    lines: list[Cell] = []
    for label, text in facts:
        for number, part in enumerate(wrapped(fmt.clean(text), width - 11)):
            lines.append(((f" {label if not number else '':<9} ", "muted"), (part, "text")))
    return lines


def read_weight(text: str) -> float:
    """A weight. Raises `ValueError` for what is none."""
    value = float(text)
    if not 0.001 <= value <= 1000:
        raise ValueError("0.001 to 1000")
    return value


def read_limit(text: str) -> int | None:
    """A limit, or None to lift it. Raises `ValueError` for what is none."""
    if text.strip().lower() in ("none", "–", "-", ""):
        return None
    value = int(text)
    if value < 0:
        raise ValueError("not below 0")
    return value


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

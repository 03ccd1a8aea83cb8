"""The prefix tree: what prompts share, and on which GPUs it is cached. Fetched page by page, as it is opened."""

from typing import Any

from textual.app import ComposeResult

from preble.daemon.errors import PrebleError
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.prefixes import ORDERS, PrefixTree, TreeRow, reuse, where
from preble.tui.query import Value
from preble.tui.roles import Cell, Role, cell
from preble.tui.rows import Column
from preble.tui.screens.base import BaseScreen
from preble.tui.state import ConsoleState
from preble.tui.widgets.choose import Choose
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.page import TextPage
from preble.tui.widgets.table import LiveTable
from preble.tui.working import start

_REFETCH_S = 5.0
_MOST_BRANCHES = 12
_SIGNS: dict[str, tuple[str, Role]] = {
    "all": ("█", "ok"),
    "part": ("▒", "ok"),
    "believed": ("░", "warn"),
    "none": ("·", "muted"),
}
_MOST_GPUS = 16


class TreeScreen(BaseScreen):
    """`3`."""

    NAME = "tree"

    def __init__(self) -> None:
        super().__init__()
        self.prefixes = PrefixTree()
        self.fault = ""
        self._fetched_s: float | None = None
        self._is_fetching = False

    def body(self) -> ComposeResult:
        """The tree as a table, and what its signs mean."""
        yield Lines(id="tail")
        columns: list[Column[TreeRow]] = [
            Column(id="prefix", title="prefix", width=26, show=_name, value=_name_text, widest=64),
            self._number("tokens", "tokens", 7, lambda p: p.tokens, fmt.milliseconds),
            self._number("depth", "depth", 7, lambda p: p.depth_tokens, fmt.milliseconds, priority=4),
            self._number("requests", "requests", 8, lambda p: p.requests, fmt.count),
            self._number("reuse", "reuse %", 7, reuse, fmt.percent, scale=100.0, priority=3),
            Column(id="gpu", title="GPUs", width=_MOST_GPUS, show=self._where, value=_gpus),
            Column(id="belief", title="sent→reported", width=13, show=_belief, value=_unreported, priority=2),
            self._number("active", "active", 6, lambda p: sum(p.active.values()), fmt.count, priority=5),
            self._number("output", "output", 6, lambda p: p.expected_output_tokens, fmt.number, priority=6),
            col.text(
                "tenant",
                "tenant",
                10,
                lambda row: row.prefix.tenant if row.prefix is not None else None,
                widest=24,
                priority=7,
            ),
            col.text(
                "template",
                "template",
                14,
                lambda row: row.prefix.template if row.prefix is not None else None,
                widest=32,
                priority=8,
            ),
        ]
        yield LiveTable(columns, lambda row: row.key, empty="no prefix yet")

    def show(self, view: ConsoleState) -> None:
        """What is fetched; what is old is fetched again."""
        table = self.query_one(LiveTable)
        table.show(self.prefixes.rows())
        gpus = sorted(view.gpus)[:_MOST_GPUS]
        legend: list[tuple[str, Role]] = [(f" by {self.prefixes.order}   GPUs ", "muted")]
        legend += [(f"{_first_and_last(gpus)}   ", "text")]
        for state, (sign, role) in _SIGNS.items():
            legend += [(f"{sign} ", role), (f"{_MEANING[state]}  ", "muted")]
        fault = cell(f" {fmt.clean(self.fault)}", "bad")
        self.query_one("#tail", Lines).show([fault if self.fault else tuple(legend)])
        now_s = self.console.now()
        is_due = self._fetched_s is None or (now_s - self._fetched_s >= _REFETCH_S and not self.console.is_paused)
        if is_due and not self._is_fetching and view.snapshot is not None:
            self._fetched_s, self._is_fetching = now_s, True
            start(self, self._refetch)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """Open or close a branch, or fetch more of one."""
        row: TreeRow | None = event.table.rows.current
        if row is None:
            return
        if row.prefix is None:
            start(self, self._fetch, row.parent, self.prefixes.next_of(row.parent))
        elif row.prefix.children:
            if self.prefixes.toggle(row.key) and not self.prefixes.is_fetched(row.key):
                start(self, self._fetch, row.key, None)
            self.draw()

    def decisions_of(self, row: TreeRow) -> tuple[str, str | None] | None:
        """Those of the template or tenant whose prefix it is."""
        if row.prefix is None:
            return None
        if row.prefix.template is not None:
            return f"template:{row.prefix.template}", None
        return (f"tenant:{row.prefix.tenant}", None) if row.prefix.tenant is not None else ("", None)

    def action_sort(self) -> None:
        """A tree has an order of its own."""
        self.action_order()

    def action_sort_more(self) -> None:
        """Likewise."""
        self.action_order()

    def action_order(self) -> None:
        """The next order of continuations."""
        self.prefixes.order = ORDERS[(ORDERS.index(self.prefixes.order) + 1) % len(ORDERS)]
        self.draw()

    def action_text(self) -> None:
        """Ask, then show the text of the prefix under the cursor."""
        row: TreeRow | None = self.selected
        if row is None or row.prefix is None:
            return
        key = row.key

        def chosen(answer: str | None) -> None:
            if answer == "show":
                start(self, self._show_text, key)

        options = [("no", "Cancel"), ("show", "Show it; the audit will say that you have read it")]
        self.app.push_screen(Choose(f"Show the prompt's text of {_short(key)}?", options), chosen)

    async def _show_text(self, key: str) -> None:
        try:
            answer = await self.console.desk.prefix_text(key)
        except PrebleError as error:
            self.tell(f"text of {_short(key)}: {error}")
            return
        more = "\n… (cut)" if answer.truncated else ""
        self.app.push_screen(TextPage(f"Text of {_short(key)}", answer.text + more))

    async def _refetch(self) -> None:
        for branch in self.prefixes.open_branches()[:_MOST_BRANCHES]:
            await self._fetch(branch, None, draws=False)
        self._is_fetching = False
        self.draw()

    async def _fetch(self, parent: str | None, after: str | None, *, draws: bool = True) -> None:
        try:
            page = await self.console.desk.prefixes(parent, after)
        except PrebleError as error:
            self.fault = str(error)
        else:
            self.fault = ""
            self.prefixes.put(parent, page, after=after)
        if draws:
            self.draw()

    def _number(self, id: str, title: str, width: int, get: Any, write: Any, **more: Any) -> Column[TreeRow]:
        return col.number(
            id, title, width, lambda row: get(row.prefix) if row.prefix is not None else None, write, **more
        )

    def _where(self, row: TreeRow) -> Cell:
        prefix = row.prefix
        if prefix is None:
            return cell("")
        return tuple(_SIGNS[where(prefix, gpu)] for gpu in sorted(self.console.view.gpus)[:_MOST_GPUS])


def _first_and_last(names: list[str]) -> str:
    return " … ".join(dict.fromkeys(fmt.clean(name) for name in (*names[:1], *names[-1:]))) or "–"


_MEANING = {"all": "cached", "part": "part", "believed": "sent, not reported", "none": "not"}


def _short(key: str) -> str:
    return f"#{key[:8]}"


def _name_text(row: TreeRow) -> Value:
    prefix = row.prefix
    if prefix is None:
        return f"… {row.left} more"
    if prefix.template is not None:
        return f"«{prefix.template}»"
    return f"{prefix.tenant}/{_short(prefix.id)}" if prefix.tenant is not None else _short(prefix.id)


def _name(row: TreeRow) -> Cell:
    text = fmt.clean(str(_name_text(row)))
    indent = "  " * row.depth
    if row.prefix is None:
        return ((f"{indent}  {text} (enter)", "muted"),)
    sign = "▾ " if row.is_open else "▸ " if row.prefix.children else "  "
    return ((indent + sign, "muted"), (text, "accent" if row.prefix.template is not None else "strong"))


def _gpus(row: TreeRow) -> Value:
    if row.prefix is None:
        return None
    return " ".join(sorted({*row.prefix.reported_tokens, *row.prefix.believed}))


def _unreported(row: TreeRow) -> Value:
    return None if row.prefix is None else float(len(row.prefix.believed))


def _belief(row: TreeRow) -> Cell:
    if row.prefix is None:
        return cell("")
    reported = sum(1 for tokens in row.prefix.reported_tokens.values() if tokens)
    sent = reported + len(row.prefix.believed)
    return ((f"{sent} → {reported}", "text"), (" ▲" if sent > reported else "", "warn"))

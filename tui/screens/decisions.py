"""Why requests went where they went: each candidate with what it would have cost, and what then really happened."""

from dataclasses import dataclass
from typing import Any

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from preble.daemon.errors import PrebleError
from preble.daemon.wire.admin import CandidateRow, Explanation
from preble.daemon.wire.live import LiveRequest
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.explaining import head_lines, outcome_lines, verdict, what_if_lines
from preble.tui.roles import Role
from preble.tui.rows import Column
from preble.tui.screens.base import BaseScreen, as_json
from preble.tui.screens.requests import request_columns
from preble.tui.state import ConsoleState
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.table import LiveTable
from preble.tui.working import start

_COLUMNS = ("time", "id", "tenant", "template", "prompt", "hit", "gpu", "mode", "ttft", "state")
_DEBOUNCE_S = 0.1
_MOST_KEPT = 500
_AGAIN_S = 2.0


@dataclass(slots=True)
class _Known:
    explanation: Explanation
    at_s: float


class DecisionsScreen(BaseScreen):
    """`8`."""

    NAME = "decisions"

    def __init__(self) -> None:
        super().__init__()
        self.shown_id: str | None = None
        """The request whose decision is shown."""
        self.what_if: tuple[list[str], Explanation] | None = None
        self.fault = ""
        self._known: dict[str, _Known] = {}
        self._asked: str | None = None

    def body(self) -> ComposeResult:
        """The latest decisions, and one of them in full."""
        columns = [column for column in request_columns() if column.id in _COLUMNS]
        yield LiveTable(columns, lambda row: row.request_id, empty="no decision yet", id="decided")
        candidates: list[Column[CandidateRow]] = [
            col.text("gpu", "GPU", 6, lambda row: row.gpu, role="strong"),
            col.text("holds", "holds", 5, lambda row: "yes" if row.holds_prefix else "no", role=_holds_role),
            col.number("hit", "cached", 7, lambda row: row.cached_tokens, fmt.milliseconds),
            col.number("miss", "missing", 7, lambda row: row.missed_tokens, fmt.milliseconds, priority=3),
            col.milliseconds("load", "L ms", 7, lambda row: row.load_ms),
            col.milliseconds("evict", "M ms", 6, lambda row: row.evict_ms),
            col.milliseconds("prefill", "P ms", 6, lambda row: row.prefill_ms),
            col.milliseconds("wait", "wait ms", 7, lambda row: row.wait_ms, priority=4),
            col.milliseconds("decode", "decode ms", 9, lambda row: row.decode_ms, priority=5),
            col.number("requests", "reqs", 5, lambda row: row.requests, fmt.count, priority=6),
            col.milliseconds("cost", "cost ms", 7, lambda row: row.cost_ms),
            Column(id="verdict", title="verdict", width=19, show=self._verdict, value=self._verdict_text, widest=60),
        ]
        with Vertical(id="explained"):
            yield Lines(id="explained-head")
            yield LiveTable(candidates, lambda row: row.gpu, empty="", id="candidates")
            with VerticalScroll(can_focus=False):
                yield Lines(id="explained-outcome")

    @property
    def explanation(self) -> Explanation | None:
        """The one that is shown."""
        known = self._known.get(self.shown_id or "")
        return None if known is None else known.explanation

    def show(self, view: ConsoleState) -> None:
        """The latest, newest first, and the chosen one."""
        decided = [row for row in reversed(view.requests.values()) if row.gpu is not None and row.mode is not None]
        table = self.query_one("#decided", LiveTable)
        table.show(decided)
        if self.shown_id is None and table.rows.current is not None:
            self._choose(table.rows.current.request_id)
        self._show_explanation(view)
        self._ask_again()

    def point_at(self, key: str) -> None:
        """Show the decision about a request, in the list or not."""
        self.query_one("#decided", LiveTable).put_on(key)
        self._choose(key)

    def on_live_table_moved(self, event: LiveTable.Moved) -> None:
        """Another one is chosen."""
        row = event.table.rows.current
        if isinstance(row, LiveRequest) and event.table.id == "decided":
            self._choose(row.request_id)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """From the list to the candidates; from a candidate to its GPU."""
        row = event.table.rows.current
        if isinstance(row, CandidateRow):
            self.console.go("gpus", key=row.gpu)
        else:
            self.query_one("#candidates", LiveTable).focus()

    def action_back(self) -> None:
        """From the candidates to the list, and then as everywhere."""
        if isinstance(self.focused, LiveTable) and self.focused.id == "candidates":
            self.query_one("#decided", LiveTable).focus()
            return
        super().action_back()

    def action_neighbour(self, rows: int) -> None:
        """The next decision, or the one before."""
        self.query_one("#decided", LiveTable).move_by(rows)

    def action_what_if(self) -> None:
        """Decide again without the chosen GPU, or those that are marked or under the cursor among the candidates."""
        explanation = self.explanation
        if explanation is None:
            return
        candidates = self.query_one("#candidates", LiveTable)
        without = [explanation.gpu]
        if self.focused is candidates or candidates.rows.marked:
            without = [row.gpu for row in candidates.rows.chosen()] or without
        start(self, self._ask_what_if, explanation.request_id, without, group="what-if")

    def action_copy_json(self) -> None:
        """The whole explanation."""
        explanation = self.explanation
        if explanation is None:
            super().action_copy_json()
            return
        self.console.copy(as_json(explanation))
        self.tell(f"copied the decision as JSON; the same: preble explain {explanation.request_id} --json")

    async def _ask_what_if(self, request_id: str, without: list[str]) -> None:
        try:
            self.what_if = (without, await self.console.desk.what_if(request_id, without))
        except PrebleError as error:
            self.tell(f"without {', '.join(without)}: {error}")
        self.draw()

    def _choose(self, request_id: str) -> None:
        if request_id != self.shown_id:
            self.shown_id, self.what_if, self.fault = request_id, None, ""
            self.query_one("#candidates", LiveTable).rows.marked.clear()
            if request_id not in self._known:
                self.set_timer(_DEBOUNCE_S, self._ask)
            self._show_explanation(self.console.view)

    def _ask_again(self) -> None:
        """What became of it may be known by now."""
        known = self._known.get(self.shown_id or "")
        is_open = known is not None and (known.explanation.actual is None or known.explanation.actual.ttft_ms is None)
        if known is not None and is_open and self.console.now() - known.at_s > _AGAIN_S:
            known.at_s = self.console.now()
            self._ask()

    def _ask(self) -> None:
        if self.shown_id is not None:
            start(self, self._fetch, self.shown_id, group="explain")

    async def _fetch(self, request_id: str) -> None:
        try:
            explanation = await self.console.desk.explanation(request_id)
        except PrebleError as error:
            self.fault = str(error)
        else:
            self.fault = ""
            self._known[request_id] = _Known(explanation, self.console.now())
            for old in list(self._known)[: max(len(self._known) - _MOST_KEPT, 0)]:
                del self._known[old]
        self._show_explanation(self.console.view)

    def _show_explanation(self, view: ConsoleState) -> None:
        explanation, table = self.explanation, self.query_one("#candidates", LiveTable)
        width = max(self.size.width - 4, 40)
        row = view.requests.get(self.shown_id or "")
        self.query_one("#explained-head", Lines).show(head_lines(self.shown_id, explanation, row, self.fault, width))
        candidates = sorted(explanation.candidates, key=lambda row: row.cost_ms) if explanation is not None else []
        table.styles.height = 1 + min(max(len(candidates), 1), 8)
        table.display = bool(candidates)
        table.show(candidates)
        lines = outcome_lines(explanation, width) if explanation is not None else []
        if self.what_if is not None:
            lines += what_if_lines(*self.what_if, width)
        self.query_one("#explained-outcome", Lines).show(lines)

    def _verdict(self, row: CandidateRow) -> Any:
        return verdict(row, self.explanation) if self.explanation is not None else ()

    def _verdict_text(self, row: CandidateRow) -> str:
        return "".join(text for text, _ in self._verdict(row))


def _holds_role(row: CandidateRow) -> Role:
    return "ok" if row.holds_prefix else "muted"

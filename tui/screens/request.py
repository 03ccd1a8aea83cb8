"""One request's time: waiting, prefill, decoding; and what the log says of it."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen

from preble.daemon.wire.live import LiveRequest, LogLine
from preble.tui import format as fmt
from preble.tui.roles import Cell, Part, Role, cell
from preble.tui.widgets.lines import Bar, Lines

if TYPE_CHECKING:
    from preble.tui.app import Console

_REFRESH_S = 0.5


class RequestPage(Screen[None]):
    """Live: it goes on while the request does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss(None)", show=False),
        Binding("e", "explain", show=False),
        Binding("y", "copy", show=False),
    ]

    def __init__(self, request_id: str) -> None:
        super().__init__()
        self.request_id = request_id

    @property
    def console(self) -> "Console":
        """The app."""
        return cast("Console", self.app)

    def compose(self) -> ComposeResult:
        """The lines."""
        yield Bar(id="status")
        with VerticalScroll():
            yield Lines(id="timeline")
        yield Bar(id="keys")

    def on_mount(self) -> None:
        """Draw, and go on drawing."""
        self.call_after_refresh(self.draw)
        self.set_interval(_REFRESH_S, self.draw)

    def draw(self) -> None:
        """Show what is known now."""
        view, fresh = self.console.view, self.console.freshness
        for widget in self.query(Lines):
            widget.palette = self.console.palette
        age = fmt.age(self.console.state.age_s(self.console.now()))
        status = f" request {self.request_id}   {fresh.glyph} {fresh.word} {age}"
        self.query_one("#status", Bar).show([cell(status, "strong")])
        keys = (("esc", "back"), ("e", "explain"), ("y", "copy id"))
        pieces: list[Part] = [piece for key, label in keys for piece in _key(key, label)]
        self.query_one("#keys", Bar).show([tuple(pieces)])
        row = view.requests.get(self.request_id)
        lines = self.query_one("#timeline", Lines)
        lines.is_dimmed = fresh.is_old
        if row is None:
            lines.show([cell(" it has left the list of latest requests; `preble explain` still knows it", "muted")])
            return
        logs = [line for _, line in view.logs if line.fields.get("request_id") == self.request_id]
        lines.show([*timeline(row, max(self.size.width - 4, 40)), *log_lines(logs)])

    def action_explain(self) -> None:
        """Why it went where it went."""
        self.dismiss(None)
        self.console.go("decisions", "", self.request_id)

    def action_copy(self) -> None:
        """Copy its id."""
        self.console.copy(self.request_id)


def timeline(row: LiveRequest, width: int) -> list[Cell]:
    """What is known of it, and its time as a bar."""
    predicted, cached = row.predicted_cached_tokens, row.cached_tokens
    facts: list[tuple[str, str, Role]] = [
        ("tenant", row.tenant, "strong"),
        ("arrived", f"{fmt.clock(row.at, tenths=True)} UTC, model {row.model}", "text"),
        ("template", row.template or "–", "text"),
        ("state", row.state + (f": {row.error}" if row.error else ""), "bad" if row.error else "text"),
        ("placed", f"{row.gpu or '–'} by {row.mode or '–'}, {row.attempts} attempt{'s' * (row.attempts != 1)}", "text"),
        (
            "prompt",
            f"{row.prompt_tokens} tokens, {_known(cached)} found cached ({_known(predicted)} predicted)",
            "text",
        ),
        ("output", f"{_known(row.output_tokens)} tokens", "text"),
    ]
    lines: list[Cell] = [((f" {label:<9} ", "muted"), (fmt.clean(value), role)) for label, value, role in facts]
    return [cell(""), *lines, cell(""), *_bar(row, width), cell("")]


def _bar(row: LiveRequest, width: int) -> list[Cell]:
    waited, first, total = row.queue_ms, row.ttft_ms, row.latency_ms
    end = next((value for value in (total, first, waited) if value is not None), None)
    if not end:
        return [cell(" it waits", "warn")]
    wait_ms = waited or 0.0
    prefill_ms = max((first if first is not None else end) - wait_ms, 0.0)
    decode_ms = max(end - wait_ms - prefill_ms, 0.0)
    room = width - 2
    widths = [round(room * part / end) for part in (wait_ms, prefill_ms, decode_ms)]
    pieces: Cell = ((" ", "text"), ("░" * widths[0], "warn"), ("▓" * widths[1], "accent"), ("█" * widths[2], "ok"))
    legend: Cell = (
        (" ░ waited ", "warn"), (f"{fmt.duration(waited)}   ", "text"),
        ("▓ prefill ", "accent"), (f"{fmt.duration(prefill_ms if first is not None else None)}   ", "text"),
        ("█ decoding ", "ok"), (f"{fmt.duration(decode_ms if total is not None else None)}   ", "text"),
        ("TTFT ", "muted"), (f"{fmt.duration(first)}   ", "text"), ("all ", "muted"), (fmt.duration(total), "text"),
    )  # fmt: skip
    return [pieces, legend]


def log_lines(logs: list[LogLine]) -> list[Cell]:
    """What the log says of it."""
    lines: list[Cell] = [cell(" log", "muted")] if logs else []
    for line in logs:
        fields = " ".join(f"{name}={value}" for name, value in line.fields.items() if name != "request_id")
        lines.append(((f" {fmt.clock(line.at, tenths=True)} ", "muted"), (fmt.clean(f"{line.event} {fields}"), "text")))
    return lines


def _key(key: str, label: str) -> Cell:
    return ((f" {key}", "title"), (f" {label} ", "text"))


def _known(value: int | None) -> str:
    return fmt.UNKNOWN if value is None else str(value)

"""Engines: a table, and beside or below it more about the one under the cursor."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Horizontal

from preble.daemon.wire.live import LiveGpu
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui.actions import order_gpu
from preble.tui.columns import bar_cell
from preble.tui.keys import Key
from preble.tui.roles import Cell, Role, cell
from preble.tui.rows import Column, SortBy
from preble.tui.screens.base import GPU_UP, BaseScreen
from preble.tui.screens.plots import PlotsPage
from preble.tui.state import ConsoleState
from preble.tui.widgets.lines import Lines, wrapped
from preble.tui.widgets.table import LiveTable

_KV_WARN, _KV_BAD = 0.85, 0.95


def state_role(gpu: LiveGpu) -> Role:
    """The role of an engine's state."""
    if gpu.draining or gpu.state in ("draining", "starting", "stopping"):
        return "warn"
    return "ok" if gpu.state in GPU_UP else "bad"


def state_text(gpu: LiveGpu) -> str:
    """Its state with a sign, so that colour is not all that tells it."""
    sign = {"ok": "●", "warn": "◐", "bad": "✕"}[state_role(gpu)]
    return f"{sign} {gpu.state}"


def gpu_columns(load_spark: Callable[[LiveGpu], str]) -> list[Column[LiveGpu]]:
    """Those of the Overview and of the GPUs screen."""
    return [
        col.text("gpu", "GPU", 6, lambda gpu: gpu.gpu, role="strong"),
        col.text("state", "state", 10, lambda gpu: gpu.state, role=state_role, shown=state_text),
        col.number("run", "run", 5, lambda gpu: gpu.running, fmt.count),
        col.number("wait", "wait", 5, lambda gpu: gpu.waiting, fmt.count, role=col.above(10, 50)),
        col.percent("kv", "KV %", 4, lambda gpu: gpu.kv_used_ratio, role=col.above(_KV_WARN, _KV_BAD)),
        Column(
            id="kvbar",
            title="",
            width=6,
            show=lambda gpu: bar_cell(gpu.kv_used_ratio, 6),
            value=lambda gpu: None,
            priority=8,
            is_drawn=True,
        ),
        col.percent("hit", "hit %", 5, lambda gpu: gpu.hit_ratio, priority=2),
        col.milliseconds("ttft", "TTFT p99 ms", 11, lambda gpu: gpu.ttft.p99_ms, priority=3),
        col.milliseconds("load", "L ms", 7, lambda gpu: gpu.load_ms, priority=4),
        Column(
            id="loads",
            title="load",
            width=8,
            show=lambda gpu: cell(load_spark(gpu), "accent"),
            value=lambda gpu: None,
            priority=5,
            is_drawn=True,
        ),
    ]


class GpusScreen(BaseScreen):
    """`2`."""

    NAME = "gpus"

    def body(self) -> ComposeResult:
        """The table and the details."""
        more: list[Column[LiveGpu]] = [
            col.percent("decode", "decode %", 8, lambda gpu: gpu.decode_ratio, priority=9),
            col.number("cached", "cached tok", 10, lambda gpu: gpu.cached_tokens, priority=6),
            col.number("evict", "evict blk/s", 11, lambda gpu: gpu.evicted_blocks_per_s, priority=7),
            col.number("age", "age", 5, lambda gpu: gpu.age_s, fmt.age, priority=6),
            col.milliseconds("todo", "to do ms", 8, lambda gpu: gpu.outstanding_ms, priority=10),
            col.number("restarts", "restarts", 8, lambda gpu: gpu.restarts, fmt.count, priority=11),
            col.text("model", "model", 16, lambda gpu: gpu.model, priority=12),
        ]
        with Horizontal(classes="split"):
            yield LiveTable(
                [*gpu_columns(self.load_spark), *more],
                lambda gpu: gpu.gpu,
                sort=(SortBy("gpu", False),),
                empty="no engines known yet",
            )
            yield Lines(classes="detail")

    def load_spark(self, gpu: LiveGpu) -> str:
        """Its load of the last minutes, on the scale of all."""
        return load_spark(self.console.view, gpu.gpu, 8)

    def show(self, view: ConsoleState) -> None:
        """The table and the details."""
        self.query_one(LiveTable).show(view.gpus.values())
        self._show_details(view)

    def on_live_table_moved(self) -> None:
        """Another one is chosen."""
        self._show_details(self.console.view)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """Its requests."""
        self.console.go("requests", f"gpu:{event.table.rows.cursor}")

    def decisions_of(self, row: LiveGpu) -> tuple[str, str | None]:
        """Those that chose it."""
        return f"gpu:{row.gpu}", None

    def works(self, key: Key) -> bool:
        """A GPU that drains can be put back to work, and any other drained."""
        gpu = self.selected
        if gpu is not None and key.action in ("drain", "undrain"):
            return bool(gpu.draining) == (key.action == "undrain")
        return super().works(key)

    def action_plots(self) -> None:
        """The last hour."""
        self.app.push_screen(PlotsPage())

    def action_drain(self) -> None:
        """Drain the one under the cursor."""
        self._order("drain")

    def action_undrain(self) -> None:
        """Put the one under the cursor back to work."""
        self._order("undrain")

    def action_restart(self) -> None:
        """Restart the one under the cursor."""
        self._order("restart")

    def _order(self, order: str) -> None:
        gpu = self.selected
        if gpu is not None:
            name = gpu.gpu  # taken now: the cursor may be elsewhere when it is done
            self.console.confirm(order_gpu(order, name, lambda: name in self.console.state.gpus))

    def _show_details(self, view: ConsoleState) -> None:
        gpu = self.selected
        lines = self.query_one(".detail", Lines)
        known = view.gpus.get(gpu.gpu) if gpu is not None else None
        lines.border_title = known.gpu if known is not None else ""
        lines.show(details(known, view, max(lines.size.width, 30)) if known is not None else [])


def load_spark(view: ConsoleState, gpu: str, width: int) -> str:
    """A GPU's load of the last minutes, on the scale of all GPUs'."""
    top = max((value or 0.0 for name in view.gpus for value in view.points(f"load_ms/{name}", width)), default=0.0)
    return fmt.spark(view.points(f"load_ms/{gpu}", width), width, top)


def details(gpu: LiveGpu, view: ConsoleState, width: int) -> list[Cell]:
    """All that is known of one, line by line."""
    room = width - 11
    cached = view.points(f"kv_cached_ratio/{gpu.gpu}", room)
    tenants = ", ".join(f"{name} {fmt.share(share)}" for name, share in gpu.tenants.items()) or "–"
    errors = f"prefill {fmt.share(gpu.prefill_error_ratio)}, decode {fmt.share(gpu.decode_error_ratio)} off"
    rows: list[tuple[str, str, Role]] = [
        (
            "state",
            state_text(gpu) + (" (draining)" if gpu.draining and gpu.state != "draining" else ""),
            state_role(gpu),
        ),
        ("model", gpu.model, "text"),
        ("cached", f"{fmt.count(gpu.cached_tokens)} tokens, {fmt.share(gpu.kv_cached_ratio)} of blocks", "text"),
        ("", fmt.spark(cached, room, 1.0).strip() or "–", "accent"),
        ("load", f"L {fmt.milliseconds(gpu.load_ms)} ms, {fmt.share(gpu.decode_ratio)} of it decoding", "text"),
        ("", load_spark(view, gpu.gpu, room).strip() or "–", "accent"),
        ("to do", f"{fmt.duration(gpu.outstanding_ms)} of prefill and decode", "text"),
        (
            "TTFT",
            f"p50 {fmt.duration(gpu.ttft.p50_ms)}, p99 {fmt.duration(gpu.ttft.p99_ms)}, n {gpu.ttft.count}",
            "text",
        ),
        ("tenants", tenants, "text"),
        ("predicted", errors, "text"),
        ("up", f"{fmt.age(gpu.uptime_s)}, restarts {gpu.restarts}, heard {fmt.age(gpu.age_s)} ago", "text"),
    ]
    if gpu.detail:
        rows.insert(1, ("", gpu.detail, state_role(gpu)))
    lines: list[Cell] = []
    for label, value, role in rows:
        for number, part in enumerate(wrapped(fmt.clean(value), room)):
            lines.append(((f" {label if not number else '':<9} ", "muted"), (part, role)))
    return lines

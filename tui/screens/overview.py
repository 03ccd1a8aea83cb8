"""Is it up, is the data fresh, who suffers, which GPU is the cause, did the scheduler do what it should."""

from typing import Any

from textual.app import ComposeResult
from textual.containers import Container, Horizontal

from preble.daemon.wire.live import Alarm, LiveGpu, LiveTenant, LiveTraffic, Spread
from preble.tui import columns as col
from preble.tui import format as fmt
from preble.tui import keys as key_table
from preble.tui.roles import Cell, Role, cell
from preble.tui.screens.base import GPU_UP, BaseScreen
from preble.tui.screens.gpus import gpu_columns, load_spark
from preble.tui.screens.plots import Plots, PlotsPage
from preble.tui.screens.tenants import tenant_columns
from preble.tui.state import ConsoleState
from preble.tui.widgets.lines import Lines
from preble.tui.widgets.table import LiveTable

_MOST_ALARMS = 4
_SCREEN_OF: dict[str, key_table.Screen] = {"gpu": "gpus", "tenant": "tenants", "daemon": "logs"}


class OverviewScreen(BaseScreen):
    """`1`."""

    NAME = "overview"

    def body(self) -> ComposeResult:
        """Alarms, tiles, and the worst GPUs and tenants."""
        alarms: LiveTable[Alarm] = LiveTable(
            [
                col.text("kind", "needs a human", 14, lambda alarm: alarm.kind, role=_severity, shown=_kind),
                col.text("name", "", 12, lambda alarm: alarm.name, role="strong"),
                col.text("text", "", 30, lambda alarm: alarm.text, widest=1000),
                col.number("since", "for", 5, self._alarm_age_s, fmt.age),
            ],
            lambda alarm: (alarm.kind, alarm.name, alarm.text.split()[0]),
            empty="nothing needs a human",
            id="alarms",
        )
        yield alarms
        with Horizontal(id="tiles"):
            yield Lines(id="tile-traffic", classes="tile")
            yield Lines(id="tile-latency", classes="tile")
            yield Lines(id="tile-reuse", classes="tile")
        yield Lines(id="brief")
        yield Plots(id="plots")
        with Container(id="worst"):
            yield LiveTable(
                gpu_columns(self._spark), lambda gpu: gpu.gpu, empty="no engines known yet", id="worst-gpus"
            )
            yield LiveTable(
                [column for column in tenant_columns() if column.id in _TENANT_COLUMNS],
                lambda tenant: tenant.tenant,
                empty="no tenant has asked for anything of late",
                id="worst-tenants",
            )

    def show(self, view: ConsoleState) -> None:
        """All of it."""
        alarms = self.query_one("#alarms", LiveTable)
        alarms.styles.height = 1 + min(max(len(view.alarms), 1), _MOST_ALARMS if self.size.height >= 30 else 3)
        alarms.show(sorted(view.alarms, key=lambda alarm: (alarm.severity != "critical", alarm.since)))
        is_wide, is_tall = self.has_class("-wide"), self.size.height >= 44
        self.query_one("#tiles").display = is_wide
        self.query_one("#brief").display = not is_wide
        plots = self.query_one("#plots", Plots)
        plots.display = is_wide and is_tall
        if view.traffic is not None:
            self._show_tiles(view, view.traffic)
        if plots.display:
            plots.show(view, self.console.palette)
        alarmed = {(alarm.kind, alarm.name) for alarm in view.alarms}
        gpus = sorted(view.gpus.values(), key=lambda gpu: _gpu_order(gpu, ("gpu", gpu.gpu) in alarmed))
        tenants = sorted(view.tenants.values(), key=lambda row: _tenant_order(row, ("tenant", row.tenant) in alarmed))
        self.query_one("#worst-gpus", LiveTable).show(gpus)
        self.query_one("#worst-tenants", LiveTable).show(tenants)

    def on_live_table_opened(self, event: LiveTable.Opened) -> None:
        """Go to what it is about."""
        row = event.table.rows.current
        if isinstance(row, Alarm):
            self.console.go(_SCREEN_OF[row.kind], key=row.name)
        elif isinstance(row, LiveGpu):
            self.console.go("gpus", key=row.gpu)
        elif isinstance(row, LiveTenant):
            self.console.go("tenants", key=row.tenant)

    def decisions_of(self, row: Any) -> tuple[str, str | None] | None:
        """Those that concern it."""
        if isinstance(row, Alarm):
            return (f"{row.kind}:{row.name}", None) if row.kind in ("gpu", "tenant") else None
        return (f"gpu:{row.gpu}", None) if isinstance(row, LiveGpu) else (f"tenant:{row.tenant}", None)

    def action_plots(self) -> None:
        """The last hour."""
        self.app.push_screen(PlotsPage())

    def _spark(self, gpu: LiveGpu) -> str:
        return load_spark(self.console.view, gpu.gpu, 8)

    def _alarm_age_s(self, alarm: Alarm) -> float | None:
        return fmt.seconds_between(alarm.since, self.console.view.at)

    def _show_tiles(self, view: ConsoleState, traffic: LiveTraffic) -> None:
        recent = f"last {view.snapshot.recent_s / 60:.0f} min" if view.snapshot is not None else ""
        for name, title, lines in (
            ("traffic", f"Traffic, {recent}", traffic_lines(view, traffic)),
            ("latency", "Latency: worst tenant | all, ms", latency_lines(view, traffic)),
            ("reuse", f"Prefix reuse, {recent}", reuse_lines(view, traffic)),
        ):
            tile = self.query_one(f"#tile-{name}", Lines)
            tile.border_title = title
            tile.show(lines)
        self.query_one("#brief", Lines).show(brief_lines(view, traffic))


_TENANT_COLUMNS = ("tenant", "share", "due", "run", "wait", "queue", "ttft")


def _severity(alarm: Alarm) -> Role:
    return "bad" if alarm.severity == "critical" else "warn"


def _kind(alarm: Alarm) -> str:
    return f"{'✕' if alarm.severity == 'critical' else '▲'} {alarm.kind}"


def _gpu_order(gpu: LiveGpu, alarmed: bool) -> tuple[bool, bool, float, str]:
    return gpu.state in GPU_UP, not alarmed, -gpu.outstanding_ms, gpu.gpu


def _tenant_order(row: LiveTenant, alarmed: bool) -> tuple[bool, float, str]:
    return not alarmed, -(row.ttft.p99_ms or 0.0), row.tenant


def _line(label: str, value: str, unit: str, spark: str = "", role: Role = "text") -> Cell:
    return ((f" {label:<9}", "muted"), (f"{value:>7}", role), (f" {unit:<5} ", "muted"), (spark, "accent"))


def traffic_lines(view: ConsoleState, traffic: LiveTraffic) -> list[Cell]:
    """What comes, ends, waits and is refused."""
    refused: Role = "warn" if traffic.refused_per_s > 0 else "text"
    out = fmt.number(traffic.output_tokens_per_s)
    return [
        _line("in", fmt.number(traffic.arrived_per_s), "/s", fmt.spark(view.points("arrived_per_s", 12), 12)),
        _line("done", fmt.number(traffic.ended_per_s), "/s"),
        _line("running", fmt.count(traffic.running), "", fmt.spark(view.points("running", 12), 12)),
        _line("waiting", fmt.count(traffic.waiting), "", fmt.spark(view.points("waiting", 12), 12)),
        _line("refused", fmt.number(traffic.refused_per_s), "/s", role=refused),
        _line("tokens", fmt.number(traffic.prompt_tokens_per_s), "in/s", f"{out} out/s"),
    ]  # fmt: skip


def latency_lines(view: ConsoleState, traffic: LiveTraffic) -> list[Cell]:
    """The worst tenant beside all; the mean of all would hide it."""
    worst = view.tenants.get(traffic.worst_tenant or "")
    nobody = Spread(count=0, p50_ms=None, p90_ms=None, p99_ms=None)
    ttft, queue = (worst.ttft, worst.queue) if worst is not None else (nobody, nobody)

    def pair(label: str, one: float | None, all_ms: float | None, history: str = "") -> Cell:
        role: Role = "warn" if one is not None and all_ms is not None and one > 2 * all_ms else "text"
        spark = fmt.spark(view.points(history, 8), 8)
        one_text, all_text = f"{fmt.milliseconds(one):>7}", f"{fmt.milliseconds(all_ms):>7}  "
        return ((f" {label:<9}", "muted"), (one_text, role), (" | ", "muted"), (all_text, "text"), (spark, "accent"))

    return [
        pair("TTFT p50", ttft.p50_ms, traffic.ttft.p50_ms, "ttft_p50_ms"),
        pair("TTFT p99", ttft.p99_ms, traffic.ttft.p99_ms, "ttft_p99_ms"),
        pair("wait p99", queue.p99_ms, traffic.queue.p99_ms),
        pair("TPOT p50", None, traffic.tpot.p50_ms),
        pair("TPOT p99", None, traffic.tpot.p99_ms),
        cell(f" n {fmt.count(traffic.ttft.count)}; worst (n 20+): {fmt.clean(traffic.worst_tenant or '–')}", "muted"),
    ]


def reuse_lines(view: ConsoleState, traffic: LiveTraffic) -> list[Cell]:
    """What the prefixes saved, by which rules, and how far beliefs were off."""
    modes = sorted(traffic.modes.items(), key=lambda item: -item[1])
    shown = " · ".join(f"{name} {fmt.share(share)}" for name, share in modes[:2])
    rest = " · ".join(f"{name} {fmt.share(share)}" for name, share in modes[2:4])
    off: Role = "warn" if (traffic.belief_error_ratio or 0.0) > 0.1 else "text"
    fair = "–" if traffic.jain_index is None else f"{traffic.jain_index:.2f}"
    return [
        _line("hit", fmt.percent(traffic.hit_ratio), "%", fmt.spark(view.points("hit_ratio", 12), 12, 1.0)),
        cell(f" {shown or fmt.UNKNOWN}"),
        cell(f" {rest}", "muted"),
        _line("belief", fmt.percent(traffic.belief_error_ratio), "% off", role=off),
        _line("fair", fair, "Jain"),
        _line("decided", fmt.number(traffic.decision_p50_us), "µs", f"p99 {fmt.number(traffic.decision_p99_us)}"),
    ]


def brief_lines(view: ConsoleState, traffic: LiveTraffic) -> list[Cell]:
    """The tiles in three lines, for narrow screens."""
    worst = view.tenants.get(traffic.worst_tenant or "")
    worst_ms = worst.ttft.p99_ms if worst is not None else None
    modes = sorted(traffic.modes.items(), key=lambda item: -item[1])[:2]
    refused: Role = "warn" if traffic.refused_per_s > 0 else "text"
    return [
        (
            (" traffic  ", "muted"),
            (f"{fmt.number(traffic.arrived_per_s):>5}", "text"),
            (" /s in ", "muted"),
            (f"{fmt.number(traffic.ended_per_s):>5}", "text"),
            (" done ", "muted"),
            (f"{fmt.number(traffic.refused_per_s):>5}", refused),
            (" refused ", "muted"),
            (f"{fmt.count(traffic.waiting):>5}", "text"),
            (" waiting ", "muted"),
            (fmt.spark(view.points("waiting", 12), 12), "accent"),
        ),
        (
            (" TTFT p99 ", "muted"),
            (f"{fmt.milliseconds(traffic.ttft.p99_ms):>5}", "text"),
            (" ms, worst (n 20+) ", "muted"),
            (f"{fmt.clean(traffic.worst_tenant or '–')} {fmt.milliseconds(worst_ms)}", "warn"),
            (" ms  ", "muted"),
            (fmt.spark(view.points("ttft_p99_ms", 12), 12), "accent"),
        ),
        (
            (" reuse    ", "muted"),
            (f"{fmt.percent(traffic.hit_ratio):>5}", "text"),
            (" % hit  ", "muted"),
            (" · ".join(f"{name} {fmt.share(share)}" for name, share in modes) + "  ", "text"),
            (f"belief {fmt.share(traffic.belief_error_ratio)} off", "muted"),
        ),
    ]

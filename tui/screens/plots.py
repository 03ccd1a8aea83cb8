"""Plots of the last hour: latency, hit ratio, and load."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Static
from textual_plotext import PlotextPlot

from preble.tui.state import ConsoleState
from preble.tui.theme import Palette

_MOST_POINTS = 240
_MOST_GPUS = 5


class Plots(Container):
    """Three plots beside each other, or below each other where it is narrow."""

    def compose(self) -> ComposeResult:
        """The plots."""
        for name in ("latency", "hits", "load"):
            yield PlotextPlot(id=f"plot-{name}", classes="plot")

    def show(self, view: ConsoleState, palette: Palette) -> None:
        """Draw the last hour."""
        self._plot("latency", "latency p50, p99, s", palette, {
            "p50": seconds(view, "latency_p50_ms"), "p99": seconds(view, "latency_p99_ms"),
        }, view)  # fmt: skip
        hits = [None if value is None else 100 * value for value in view.hour("hit_ratio", _MOST_POINTS)]
        self._plot("hits", "hit ratio, %", palette, {"": hits}, view)
        busiest = sorted(view.gpus.values(), key=lambda gpu: -gpu.load_ms)[:_MOST_GPUS]
        loads = {gpu.gpu: seconds(view, f"load_ms/{gpu.gpu}") for gpu in sorted(busiest, key=lambda gpu: gpu.gpu)}
        self._plot("load", "load L, s", palette, loads, view)

    def _plot(
        self, name: str, title: str, palette: Palette, lines: dict[str, list[float | None]], view: ConsoleState
    ) -> None:
        plot = self.query_one(f"#plot-{name}", PlotextPlot)
        plot.border_title = title
        plt = plot.plt
        plt.clear_figure()
        length = max((len(values) for values in lines.values()), default=0)
        span_min = _span_s(view) / 60
        step = span_min / max(length - 1, 1)
        for (label, values), color in zip(lines.items(), palette.series, strict=False):
            points = [(index * step - span_min, value) for index, value in enumerate(values) if value is not None]
            if points:
                xs, ys = zip(*points, strict=True)
                plt.plot(list(xs), list(ys), label=label or None, marker="braille", color=_rgb(color))
        plt.ylim(lower=0)
        marks = [-span_min, -span_min / 2, 0.0]
        plt.xticks(marks, [f"-{-mark:.0f} min" if mark else "now" for mark in marks])
        plt.xaxes(True, False)
        plt.yaxes(True, False)
        plot.refresh()


class PlotsPage(Screen[None]):
    """The plots alone, on the whole screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,v,q", "dismiss(None)", show=False)]

    def compose(self) -> ComposeResult:
        """The plots."""
        yield Static(" The last hour   (esc: back)", id="plots-title", markup=False)
        yield Plots()

    def on_mount(self) -> None:
        """Draw, and go on drawing."""
        self.call_after_refresh(self.draw)
        self.set_interval(2.0, self.draw)

    def draw(self) -> None:
        """Draw what is known now."""
        view, palette = self.app.view, self.app.palette  # type: ignore[attr-defined]
        self.query_one(Plots).show(view, palette)


def seconds(view: ConsoleState, name: str) -> list[float | None]:
    """A history of milliseconds as seconds."""
    return [None if value is None else value / 1000 for value in view.hour(name, _MOST_POINTS)]


def _span_s(view: ConsoleState) -> float:
    longest = max((len(points) for points in view.history.values()), default=0)
    return longest * (view.snapshot.history_step_s if view.snapshot is not None else 1.0)


def _rgb(color: str) -> tuple[int, int, int]:
    return (int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16))

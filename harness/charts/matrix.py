"""What a matrix changes: one panel a metric, its cells from left to right, a colour and a shape for each runtime."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics import median_estimate
from harness.charts import style
from harness.charts.run import by_block, label, set_scale, unit_of
from harness.errors import UsageError
from harness.model.report import Series

_CELL_INCHES = 0.95
_WIDTH_INCHES = (4.2, 14.0)
_PANEL_INCHES = 2.7
_LETTERS = 13
_SPREAD = 0.4  # of the room between two cells, shared by the runtimes
_NOTE = "dots: trials; shape and line: median with its 95 % interval"


def matrix_chart(series: Series, metrics: Sequence[str]) -> Figure:
    """Return a figure with a panel for each of the metrics that the cells measured. Raises: UsageError without any."""
    measured = [metric for metric in metrics if _values(series, metric)]
    if not measured:
        raise UsageError(
            "matrix: nothing to draw", hint="harness report RUN --matrix shows properties, and what failed"
        )
    low, high = _WIDTH_INCHES
    with style.look():
        width = min(high, max(low, 1.4 + _CELL_INCHES * len(series.reports)))
        columns = 2 if len(measured) > 1 and 2 * width <= high else 1
        lines = math.ceil(len(measured) / columns)
        figure = style.new_figure(columns * width, 0.9 + _PANEL_INCHES * lines)
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        names = [_cell_label(settings) for settings in series.settings]
        for axes, metric in zip(panels, measured, strict=False):
            draw_matrix(axes, series, metric)
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.tick_params(axis="x", labelsize=9 if len(series.keys) == 1 else 8)
        for axes in panels[len(measured) :]:
            axes.set_visible(False)
        figure.supxlabel(f"{', '.join(series.keys)}  ({_NOTE})", fontsize=9)
        handles = {
            name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=9)
    return figure


def _values(series: Series, metric: str) -> list[float]:
    return [
        value
        for report in series.reports
        for runtime in report.run.runtimes
        for value in by_block(report.records, runtime, metric).values()
    ]


def _cell_label(settings: Sequence[str]) -> str:
    return "\n".join(line for text in settings for line in textwrap.wrap(text, _LETTERS))


def draw_matrix(axes: Axes, series: Series, metric: str) -> None:
    """Draw one metric of all cells. Medians are joined where only the last key differs."""
    runtimes = runtimes_of(series)
    colours, shapes = style.colours(runtimes), style.markers(runtimes)
    for place, runtime in enumerate(runtimes):
        shift = _SPREAD * ((place + 0.5) / len(runtimes) - 0.5)
        name, medians = runtime, list[tuple[tuple[str, ...], float, float]]()
        for number, report in enumerate(series.reports):
            own = list(by_block(report.records, runtime, metric).values())
            if not own:
                continue
            name, found = label(report.records, runtime), median_estimate(own)
            medians.append((series.settings[number][:-1], number + shift, found.value))
            axes.scatter([number + shift] * len(own), own, s=10, alpha=0.35, color=colours[runtime], linewidths=0)
            if found.lo is not None and found.hi is not None:
                axes.vlines(number + shift, found.lo, found.hi, color=colours[runtime], linewidth=2)
        for part, (_, joined) in enumerate(groupby(medians, key=lambda one: one[0])):
            points = list(joined)
            axes.plot([x for _, x, _ in points], [y for _, _, y in points], color=colours[runtime], linewidth=1,
                      marker=shapes[runtime], markersize=6, label=None if part else name)  # fmt: skip
    _dress(axes, series, metric)


def runtimes_of(series: Series) -> list[str]:
    """Return the runtimes of all cells, in the order of the first cell that has each."""
    return list(dict.fromkeys(runtime for report in series.reports for runtime in report.run.runtimes))


def _dress(axes: Axes, series: Series, metric: str) -> None:
    known = next(report.run for report in series.reports if metric in report.run.metrics)
    set_scale(axes, _values(series, metric), unit_of(known, metric), "y")
    if axes.get_yscale() == "linear":
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05 * axes.get_ylim()[1])  # else noise looks like an effect
        if unit_of(known, metric) == "bytes":  # ticks for the whole axis, and not for the values' own span
            axes.yaxis.set_major_locator(style.byte_locator(axes.get_ylim()[1]))
    axes.grid(visible=False, axis="x")
    better = known.metrics[metric].get("better", "")
    axes.set_title(f"{metric}, {better} is better" if better in {"lower", "higher"} else metric)


def describe(series: Series, metrics: Sequence[str]) -> str:
    """Return what the figure shows, for those who do not see it."""
    of = f"{', '.join(metrics)} of {', '.join(runtimes_of(series))}"
    return f"{of} in {len(series.reports)} cells of {', '.join(series.keys)}"

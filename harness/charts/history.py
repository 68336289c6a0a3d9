"""How metrics moved over runs: one panel a metric and runtime, the regression chart of CI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from harness.charts import style
from harness.model.history import Judged, Series

RUNS_SHOWN = 100
_PANEL_INCHES = (9.0, 2.3)
_ALONE_INCHES = (5.4, 2.7)  # so that letters stay readable where a phone shrinks it


def history_chart(
    judged: Sequence[Judged], *, margin: float, caption: str, accepted: Mapping[str, str] | None = None
) -> Figure:
    """Return a figure with one panel a series: dots with 95 % whiskers, the level of each segment, what broke it.

    Hollow dots are runs of which trials were disturbed. The band is the margin around the newest level. `accepted` maps
    a run id to the reason why a step there is wanted; `caption` names the machine. Raises: ValueError without series.
    """
    if not judged:
        raise ValueError("history_chart: no series")
    with style.look():
        width, height = _PANEL_INCHES
        figure = style.new_figure(width, height * len(judged) + 0.4)
        panels = figure.subplots(len(judged), 1, squeeze=False)[:, 0]
        for axes, one in zip(panels, judged, strict=True):
            draw_history(axes, one, margin=margin, accepted=accepted or {})
        panels[-1].set_xlabel(f"run, oldest first (not to scale in time) · {caption}")
    return figure


def new_panel(ax: Axes | None) -> Axes:
    """Return `ax`, or axes of a new figure of one panel's size."""
    if ax is not None:
        return ax
    with style.look():
        axes: Axes = style.new_figure(*_ALONE_INCHES).add_subplot()
    return axes


def draw_history(axes: Axes, judged: Judged, *, margin: float, accepted: Mapping[str, str]) -> Axes:
    """Draw one series on `axes` and return them."""
    with style.look():
        return _draw(axes, judged, margin, accepted)


def _draw(axes: Axes, judged: Judged, margin: float, accepted: Mapping[str, str]) -> Axes:
    series = judged.series
    first = max(0, len(series.points) - RUNS_SHOWN)
    places = list(range(first, len(series.points)))
    _draw_points(axes, series, places)
    starts = [first, *(mark.index for mark in judged.breaks if mark.index > first)]
    if judged.step is not None:
        starts.append(judged.step.index)
    _draw_levels(axes, series, sorted({*starts, len(series.points)}), margin)
    _draw_marks(axes, judged, first, accepted)
    _dress(axes, judged)
    axes.set_xlim(first - 0.7, len(series.points) - 0.3)
    return axes


def _values(series: Series, places: Sequence[int]) -> list[float]:
    return [float(series.compared(place) or 0) for place in places]


def _draw_points(axes: Axes, series: Series, places: Sequence[int]) -> None:
    colour = style.COLOURS[0]
    for place, value in zip(places, _values(series, places), strict=True):
        point = series.points[place]
        lo, hi = (point.effect_lo, point.effect_hi) if series.relative else (point.lo, point.hi)
        if lo is not None and hi is not None:
            axes.vlines(place, lo, hi, color=colour, linewidth=1, alpha=0.5)
        noisy = series.entries[place].noisy > 0
        axes.plot(place, value, "o", markersize=4.5, color=colour, markerfacecolor="white" if noisy else colour)


def _draw_levels(axes: Axes, series: Series, starts: Sequence[int], margin: float) -> None:
    for start, end in pairwise(starts):
        if start == end:
            continue
        level = median(_values(series, range(start, end)))
        axes.hlines(level, start - 0.5, end - 0.5, color=style.INK, linewidth=1.4)
        if end == starts[-1]:
            axes.fill_between([start - 0.5, end - 0.5], level / (1 + margin), level * (1 + margin),
                              color=style.FAINT, alpha=0.35, linewidth=0)  # fmt: skip


def _draw_marks(axes: Axes, judged: Judged, first: int, accepted: Mapping[str, str]) -> None:
    top = axes.get_xaxis_transform()
    for mark in judged.breaks:
        if mark.index > first:
            axes.axvline(mark.index - 0.5, color=style.FAINT, linestyle="--", linewidth=1.2)
            axes.text(mark.index - 0.4, 0.02, mark.reason, transform=top, fontsize=8, color="#666666", va="bottom")
    step = judged.step
    if step is not None:
        wanted = accepted.get(judged.series.entries[step.index].run_id)
        colour = "#666666" if wanted else style.ALARM
        axes.axvline(step.index - 0.5, color=colour, linewidth=1.6)
        text = f"accepted: {wanted}" if wanted else judged.reason.partition(" (p")[0]
        right = step.index - first > (len(judged.series.points) - first) / 2
        axes.text(step.index - (0.7 if right else 0.3), 0.96, text, transform=top, fontsize=8.5, color=colour,
                  ha="right" if right else "left", va="top", fontweight="bold")  # fmt: skip


def _dress(axes: Axes, judged: Judged) -> None:
    series = judged.series
    newest = series.entries[-1]
    accelerator = newest.accelerators.get(series.runtime)
    who = f"{series.runtime} ({accelerator})" if accelerator else series.runtime
    against = f" / {newest.control}" if series.relative else ""
    axes.set_title(f"{series.metric}: {who}{against}")
    arrow = {"lower": "lower is better", "higher": "higher is better"}.get(series.better, "")
    axes.set_ylabel(f"ratio to {newest.control}\n{arrow}" if series.relative else arrow)
    values = _values(series, range(len(series.points)))
    if min(values) > 0 and max(values) / min(values) > 1.5:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(style.ratio_formatter() if series.relative else style.unit_formatter(series.unit))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(visible=False, axis="x")
    low, high = axes.get_ylim()
    if axes.get_yscale() == "linear":
        axes.set_ylim(low, high + 0.15 * (high - low))
    else:
        axes.set_ylim(low, high * math.exp(0.15 * math.log(high / low)))


def describe(judged: Judged) -> str:
    """Return the chart of one series in words, for those who cannot see it."""
    series = judged.series
    values = _values(series, range(len(series.points)))
    form = style.ratio_formatter() if series.relative else style.unit_formatter(series.unit)
    newest, middle = form(values[-1], None), form(median(values), None)
    beside = " the control's" if series.relative else ""
    return (
        f"{series.metric} of {series.runtime} over {len(values)} runs: newest {newest}{beside}, "
        f"median {middle}{beside}; {judged.reason}"
    )

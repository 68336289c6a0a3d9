"""Metrics that are one thing at several sizes, as one chart: the first write to files of 4 KiB, 1 MiB and 16 MiB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from harness.analysis.statistics import median_estimate
from harness.charts import style
from harness.charts.run import by_block, label, new_axes, set_scale, unit_of
from harness.errors import UsageError
from harness.model.records import RunRecord, TrialRecord


def family(
    run: RunRecord, records: Sequence[TrialRecord], members: Mapping[str, str], title: str, ax: Axes | None = None
) -> Axes:
    """Draw several metrics of one unit side by side (`members`: metric to label): a dot a trial, median, interval.

    Raises: UsageError where no runtime has any of them.
    """
    names = [name for name in members if any(by_block(records, runtime, name) for runtime in run.runtimes)]
    if not names:
        raise UsageError(f"family: no runtime of this run has any of {', '.join(members)}")
    with style.look():
        axes = new_axes(ax, 6)
        colours, shapes = style.colours(run.runtimes), style.markers(run.runtimes)
        every: list[float] = []
        shown = [runtime for runtime in run.runtimes if any(by_block(records, runtime, name) for name in names)]
        for place, runtime in enumerate(shown):
            aside = 0.7 * ((place + 0.5) / len(shown) - 0.5)
            for column, name in enumerate(names):
                own = list(by_block(records, runtime, name).values())
                every += own
                if own:
                    _column(axes, column + aside, own, colours[runtime], shapes[runtime])
            axes.plot([], [], shapes[runtime], color=colours[runtime], label=label(records, runtime))
        set_scale(axes, every, unit_of(run, names[0]), "y")
        axes.set_xticks(range(len(names)), [members[name] for name in names])
        for between in range(len(names) - 1):
            axes.axvline(between + 0.5, color=style.GRID, linewidth=1)
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.5, len(names) - 0.5)
        style.title(axes, title)
        style.legend(axes, below=ax is None)
    return axes


def _column(axes: Axes, at: float, own: Sequence[float], colour: str, shape: str) -> None:
    found = median_estimate(own)
    if found.lo is not None and found.hi is not None:
        axes.vlines(at, found.lo, found.hi, color=style.INK, linewidth=1.6)
    axes.scatter([at] * len(own), own, s=10, color=colour, alpha=0.45, linewidths=0)
    axes.plot(at, found.value, shape, color=colour, markeredgecolor=style.INK, markeredgewidth=0.6, markersize=6)


def describe(run: RunRecord, records: Sequence[TrialRecord], members: Mapping[str, str]) -> str:
    """Return the medians in words, runtime by runtime."""
    parts = []
    for runtime in run.runtimes:
        own = {text: list(by_block(records, runtime, name).values()) for name, text in members.items()}
        form = {text: style.unit_formatter(unit_of(run, name)) for name, text in members.items()}
        told = [f"{text} {form[text](median_estimate(found).value, None)}" for text, found in own.items() if found]
        if told:
            parts.append(f"{label(records, runtime)}: {', '.join(told)}")
    return "; ".join(parts)

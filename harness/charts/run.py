"""Charts of one run, each from its records: every function takes `ax=`, draws, and returns the axes.

Raw trials are always to be seen as dots beside the interval: a bar alone hides what happened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from harness.analysis.statistics import median, median_estimate, paired_ratio
from harness.charts import style
from harness.errors import UsageError
from harness.model.records import RunRecord, TrialRecord

Records = Sequence[TrialRecord]
Blocks = Mapping[int, float]
_LOG_FROM_RATIO = 8.0
_JITTER = 0.22
_MARKS = "dots: trials, diamond: estimate, line: 95 % interval"
_WIDTH_INCHES = 5.4  # so that letters stay readable where a phone shrinks it


def by_block(records: Records, runtime: str, metric: str) -> dict[int, float]:
    """Return one metric of one runtime by block: succeeded trials outside the warm-up."""
    return {
        record.spec.block: float(record.metrics[metric].value)
        for record in records
        if record.spec.runtime == runtime and record.status == "ok" and not record.spec.warmup
        and metric in record.metrics
    }  # fmt: skip


def series(run: RunRecord, records: Records, metric: str) -> dict[str, dict[int, float]]:
    """Return one metric of every runtime that has it. Raises: UsageError where none has."""
    found = {runtime: by_block(records, runtime, metric) for runtime in run.runtimes}
    kept = {runtime: values for runtime, values in found.items() if values}
    if not kept:
        raise UsageError(f"metric: {metric}: no runtime of this run has it", hint=f"known: {', '.join(run.metrics)}")
    return kept


def label(records: Records, runtime: str) -> str:
    """Return a runtime's name, a VM's with its accelerator: `vm (tcg)`."""
    names = sorted({r.accelerator for r in records if r.spec.runtime == runtime and r.accelerator})
    return f"{runtime} ({'+'.join(names)})" if names else runtime


def new_axes(ax: Axes | None, rows: int) -> Axes:
    """Return `ax`, or axes of a new figure that is high enough for as many rows."""
    if ax is not None:
        return ax
    axes: Axes = style.new_figure(_WIDTH_INCHES, 1.25 + 0.5 * rows).add_subplot()
    return axes


def unit_of(run: RunRecord, metric: str) -> str:
    """Return the unit of a metric, empty where the run does not know it."""
    return str(run.metrics.get(metric, {}).get("unit", ""))


def _arrow(run: RunRecord, metric: str) -> str:
    better = run.metrics.get(metric, {}).get("better", "")
    return {"lower": "lower is better", "higher": "higher is better"}.get(better, "")


def set_scale(axes: Axes, values: Sequence[float], unit: str, which: Literal["x", "y"] = "x") -> None:
    """Use a logarithmic axis where values differ by a large factor; its labels are round in the unit."""
    axis: Any = axes.xaxis if which == "x" else axes.yaxis
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) / min(positive) > _LOG_FROM_RATIO:
        base = 2.0 if unit == "bytes" else 10.0
        decades = math.log(max(positive) / min(positive), base)
        (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=base)
        subs = (1.0, 3.0) if base == 10.0 and decades < 2 else (1.0,)
        axis.set_major_locator(LogLocator(base=base, subs=subs, numticks=6))
        axis.set_minor_formatter(NullFormatter())
    elif unit == "bytes" and max(values) > min(values):
        axis.set_major_locator(style.byte_locator(max(values) - min(values)))
    axis.set_major_formatter(style.ratio_formatter() if unit == "ratio to control" else style.unit_formatter(unit))


def draw_offset(place: int, count: int) -> float:
    """Return where a dot lies above or below its row, the same each time: trials in their order, top to bottom."""
    return _JITTER * (1 - 2 * place / max(1, count - 1)) if count > 1 else 0.0


def values(run: RunRecord, records: Records, metric: str = "startup.ready", ax: Axes | None = None) -> Axes:
    """Draw each trial's value as a dot, one row a runtime, with the median and its 95 % interval."""
    found = series(run, records, metric)
    with style.look():
        axes = new_axes(ax, len(found))
        colours = style.colours(run.runtimes)
        names = list(found)
        for row, runtime in enumerate(reversed(names)):
            own = list(found[runtime].values())
            axes.scatter(own, [row + draw_offset(n, len(own)) for n in range(len(own))], s=16, alpha=0.55,
                         color=colours[runtime], linewidths=0, rasterized=style.many(len(own)))  # fmt: skip
            _interval(axes, row, median_estimate(own))
        _rows(axes, [label(records, runtime) for runtime in reversed(names)])
        set_scale(axes, [value for own in found.values() for value in own.values()], unit_of(run, metric))
        axes.set_xlabel(f"{metric}, {_arrow(run, metric)}".rstrip(", ") + f"\n{_MARKS}")
        style.title(axes, f"{metric}: trials and medians")
    return axes


def _interval(axes: Axes, row: float, found: Any) -> None:
    if found.lo is not None and found.hi is not None:
        axes.hlines(row, found.lo, found.hi, color=style.INK, linewidth=2)
    axes.plot(found.value, row, "D", color=style.INK, markersize=6)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="y")


def paired(run: RunRecord, records: Records, metric: str = "startup.ready", ax: Axes | None = None) -> Axes:
    """Draw each block's ratio to the control, one row a runtime, with the Hodges-Lehmann estimate and its interval."""
    found = series(run, records, metric)
    control = found.get(run.control, {})
    ratios = {
        runtime: [value / control[block] for block, value in own.items() if control.get(block) and value > 0]
        for runtime, own in found.items() if runtime != run.control
    }  # fmt: skip
    kept = {runtime: own for runtime, own in ratios.items() if own}
    if not kept:
        raise UsageError(f"paired: {metric}: no runtime has it in a block with the control {run.control}")
    with style.look():
        axes = new_axes(ax, len(kept))
        colours = style.colours(run.runtimes)
        for row, (runtime, own) in enumerate(reversed(kept.items())):
            axes.scatter(own, [row + draw_offset(n, len(own)) for n in range(len(own))], s=16, alpha=0.55,
                         color=colours[runtime], linewidths=0, rasterized=style.many(len(own)))  # fmt: skip
            _interval(axes, row, paired_ratio(own))
        axes.axvline(1.0, color=style.INK, linewidth=1, linestyle=":")
        _rows(axes, [label(records, runtime) for runtime in reversed(kept)])
        set_scale(axes, [1.0, *(value for own in kept.values() for value in own)], "ratio to control")
        axes.set_xlabel(f"ratio within a block, {_arrow(run, metric)}".rstrip(", ") + f"\n{_MARKS}")
        style.title(axes, f"{metric} against {run.control}")
    return axes


def ecdf(run: RunRecord, records: Records, metric: str = "startup.ready", ax: Axes | None = None) -> Axes:
    """Draw the share of trials at or below each value, one line a runtime."""
    found = series(run, records, metric)
    with style.look():
        axes = new_axes(ax, 4)
        colours, shapes = style.colours(run.runtimes), style.markers(run.runtimes)
        for runtime, own in found.items():
            ordered = sorted(own.values())
            shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
            axes.step([ordered[0], *ordered], [0.0, *shares], where="post", color=colours[runtime], linewidth=1.6,
                      marker="" if style.many(len(own)) else shapes[runtime], markersize=4,
                      label=label(records, runtime))  # fmt: skip
        set_scale(axes, [value for own in found.values() for value in own.values()], unit_of(run, metric))
        axes.set_xlabel(f"{metric}, {_arrow(run, metric)}".rstrip(", "))
        axes.set_ylabel("share of trials")
        axes.set_ylim(0, 1.02)
        style.title(axes, f"{metric}: distribution")
        style.legend(axes, below=ax is None)
    return axes


def order(run: RunRecord, records: Records, metric: str = "startup.ready", ax: Axes | None = None) -> Axes:
    """Draw values in the order in which trials ran, with warm-up, disturbed and failed trials told apart."""
    series(run, records, metric)
    with style.look():
        axes = new_axes(ax, 4)
        colours, shapes = style.colours(run.runtimes), style.markers(run.runtimes)
        ran = sorted(records, key=lambda record: (record.spec.block, record.spec.order))
        for runtime in run.runtimes:
            own = [(place, record) for place, record in enumerate(ran) if record.spec.runtime == runtime]
            measured = [(place, record) for place, record in own if metric in record.metrics and record.status == "ok"]
            for warmup, noisy in product((False, True), repeat=2):
                kind = [one for one in measured if (one[1].spec.warmup, bool(one[1].noise.flags)) == (warmup, noisy)]
                axes.plot([place for place, _ in kind], [record.metrics[metric].value for _, record in kind],
                          shapes[runtime], color=colours[runtime], markersize=5,
                          markerfacecolor="white" if warmup else colours[runtime],
                          markeredgecolor=style.ALARM if noisy else colours[runtime],
                          rasterized=style.many(len(kind)))  # fmt: skip
            failed = [place for place, record in own if record.status != "ok"]
            axes.plot(failed, [0.02] * len(failed), "x", color=style.ALARM, transform=axes.get_xaxis_transform())
            axes.plot([], [], shapes[runtime], color=colours[runtime], label=label(records, runtime))
        set_scale(axes, [float(r.metrics[metric].value) for r in ran if metric in r.metrics], unit_of(run, metric), "y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel("trial, in order (hollow: warm-up, red edge: disturbed, x: failed)")
        axes.set_ylabel(metric)
        style.title(axes, f"{metric} over the run")
        style.legend(axes, below=ax is None)
    return axes


def isolation(run: RunRecord, records: Records, ax: Axes | None = None, *, prefix: str = "isolation.") -> Axes:
    """Draw the properties as a grid of runtimes by metrics: each cell with its value, shaded from worst to best.

    A value that acts on a kernel of the guest's own has a star and no colour: it says nothing about the host.
    """
    names = [m for m, d in run.metrics.items() if m.startswith(prefix) and d.get("assume") == "exact"]
    table = {m: {r: by_block(records, r, m) for r in run.runtimes} for m in names}
    rows = [m for m in names if any(table[m].values())]
    if not rows:
        raise UsageError(f"isolation: no property of this run begins with {prefix}", hint="metrics: [isolation]")
    with style.look():
        axes = ax
        if axes is None:
            axes = style.new_figure(3.6 + 1.25 * len(run.runtimes), 1.4 + 0.3 * len(rows)).add_subplot()
        for row, metric in enumerate(rows):
            cells = {r: _property(records, r, metric, list(own.values())) for r, own in table[metric].items()}
            _draw_properties(axes, row, cells, run.metrics[metric])
        axes.set_xlim(-0.5, len(run.runtimes) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(run.runtimes)), [label(records, runtime) for runtime in run.runtimes])
        axes.set_yticks(range(len(rows)), [metric.removeprefix(prefix) for metric in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_xlabel("green: best here, orange: worst\n* on a kernel of its own, no power over the host", fontsize=9)
    return axes


@dataclass(frozen=True, slots=True)
class _Property:
    """What one runtime has of one property: its values, and whether they act on its own kernel alone."""

    values: tuple[float, ...]
    own_kernel: bool


def _property(records: Records, runtime: str, metric: str, values_: Sequence[float]) -> _Property:
    labels = [r.metrics[metric].labels for r in records if r.spec.runtime == runtime and metric in r.metrics]
    return _Property(tuple(values_), any(one.get("acts_on") == "own kernel" for one in labels))


def _draw_properties(axes: Axes, row: int, cells: Mapping[str, _Property], definition: Mapping[str, str]) -> None:
    better = definition.get("better", "neither")
    compared = [value for cell in cells.values() if not cell.own_kernel for value in cell.values]
    low, high = (min(compared), max(compared)) if compared else (0.0, 0.0)
    for column, cell in enumerate(cells.values()):
        if not cell.values:
            axes.text(column, row, "-", ha="center", va="center", color="#888888")
            continue
        if not cell.own_kernel and high > low and better != "neither":
            share = (cell.values[0] - low) / (high - low)
            good = share if better == "higher" else 1 - share
            axes.axhspan(row - 0.46, row + 0.46, (column + 0.03) / len(cells), (column + 0.97) / len(cells),
                         color=style.COLOURS[2] if good >= 0.5 else style.COLOURS[4],
                         alpha=0.12 + 0.5 * abs(good - 0.5), linewidth=0)  # fmt: skip
        axes.text(column, row, _property_text(cell, definition), ha="center", va="center")


def _property_text(cell: _Property, definition: Mapping[str, str]) -> str:
    mark = "*" if cell.own_kernel else ""
    first = cell.values[0]
    if len(set(cell.values)) > 1:
        return f"{min(cell.values):g}..{max(cell.values):g}{mark}"
    words = {0.0: "no", 1.0: "yes"} if definition.get("unit") == "bool" else {}
    return words.get(first, f"{first:g}") + mark


def describe(run: RunRecord, records: Records, metric: str) -> str:
    """Return a chart of values in words: each runtime's median in the metric's unit."""
    unit = style.unit_formatter(unit_of(run, metric))
    parts = [
        f"{label(records, r)} {unit(median(list(v.values())), None)}" for r, v in series(run, records, metric).items()
    ]
    return f"medians of {metric}: {', '.join(parts)}"

"""The waterfall of a start: from each milestone to the next, named by what happens in between."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from harness.analysis.phases import DOCS, channel_ns, of_runtime
from harness.charts import style
from harness.charts.run import Records, label
from harness.errors import UsageError
from harness.model.records import RunRecord

_ROOM_FOR_LABELS = 1.18
_WIDTH_INCHES = 5.4


def phases(run: RunRecord, records: Records, runtime: str, ax: Axes | None = None) -> Axes:
    """Draw the phases of one runtime's start, by the medians of its milestones, with what the channel may delay.

    Raises: UsageError for a runtime without milestones.
    """
    rows = of_runtime(records, runtime)
    if not rows:
        raise UsageError(f"phases: {runtime}: no milestones in this run", hint=f"known: {', '.join(run.runtimes)}")
    unit = style.unit_formatter("ns")
    total = rows[-1].end_ns
    with style.look():
        axes = ax if ax is not None else style.new_figure(_WIDTH_INCHES, 1.25 + 0.45 * len(rows)).add_subplot()
        for row, phase in enumerate(rows):
            axes.barh(row, phase.length_ns, left=phase.begin_ns, height=0.62, color=style.COLOURS[row % 6])
            axes.annotate(unit(phase.length_ns, None), (phase.end_ns, row), (4, 0), textcoords="offset points",
                          va="center", fontsize=9)  # fmt: skip
        axes.set_yticks(range(len(rows)), [phase.name for phase in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, total * _ROOM_FOR_LABELS)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(unit)
        late = channel_ns(records, runtime)
        channel = "" if late is None else f"\na mark takes {unit(late, None)} to the host (median)"
        axes.set_xlabel(f"since requested, host's clock, medians{channel}")
        axes.set_title(f"{label(records, runtime)}: {unit(total, None)} to {rows[-1].end}")
    return axes


def in_words(records: Records, runtime: str) -> str:
    """Return a waterfall in words."""
    unit = style.unit_formatter("ns")
    rows = of_runtime(records, runtime)
    parts = [f"{phase.name} {unit(phase.length_ns, None)} ({DOCS[phase.name]})" for phase in rows]
    return f"{label(records, runtime)}: {'; '.join(parts)}"

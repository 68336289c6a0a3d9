"""What runtimes lose beside a noisy neighbour, and which faults stay in them: two small grids of runtimes by kinds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from harness.analysis.isolation import kept_of
from harness.charts import style
from harness.errors import UsageError
from harness.model.report import Cell, Report
from harness.model.units import format_ns

_LOST, _HELD, _NONE = style.COLOURS[1], style.COLOURS[2], "#eeeeee"
_HEAD_LETTERS = 13
_FAULTS = "containment."
_CONTROL = "beside a neighbour, of the quiet rate; A/A: the control's range, within which nothing is shown"
_BROKE = "yes: it ended as it should, the neighbour's heart went on beating, the host's kernel said nothing"


@dataclass(frozen=True, slots=True)
class _Box:
    """One cell: its words, and how strong its colour is (0 to 1)."""

    words: str
    colour: str = _NONE
    strength: float = 0.0


def interference(report: Report, names: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Draw what each runtime keeps by kind of work: the darker, the more is lost. Raises: UsageError."""
    found = {
        runtime: {kept.kind: kept for kept in kept_of(report.cells, runtime) if kept.kept is not None}
        for runtime in report.run.runtimes
    }
    kinds = list(dict.fromkeys(kind for kept in found.values() for kind in kept))
    boxes: dict[tuple[str, str], _Box] = {}
    for runtime, own in found.items():
        for kind, kept in own.items():
            assert kept.kept is not None
            lost = min(1.0, max(0.0, 1 - kept.kept)) if kept.shown else 0.0
            words = f"{kept.kept:.0%}" if kept.shown else "no difference"
            boxes[kind, runtime] = _Box(f"{words}\nA/A ±{kept.floor:.0%}", _LOST, 0.75 * lost)
    return _grid(kinds, [runtime for runtime, own in found.items() if own], boxes, names, _CONTROL, ax)


def containment(report: Report, names: Mapping[str, str], ax: Axes | None = None) -> Axes:
    """Draw which faults each runtime contained, in all blocks. Raises: UsageError."""
    boxes, faults = {}, dict[str, None]()
    for cell in report.cells:
        fault = cell.metric.removeprefix(_FAULTS)
        if cell.metric.startswith(_FAULTS) and cell.exact and fault != "held":
            faults[fault] = None
            if cell.minimum is not None:
                boxes[fault, cell.runtime] = _contained(cell, report.cell(f"{cell.metric}.detected", cell.runtime))
    tried = [runtime for runtime in report.run.runtimes if any(column == runtime for _, column in boxes)]
    return _grid([fault for fault in faults if any(row == fault for row, _ in boxes)], tried, boxes, names, _BROKE, ax)


def _contained(cell: Cell, detected: Cell | None) -> _Box:
    """`detected`: after how long its processes had ended, where they did."""
    after = f"\nended in {format_ns(detected.median)}" if detected and detected.median is not None else ""
    return _Box(f"yes{after}", _HELD, 0.45) if cell.minimum else _Box(f"no{after}", _LOST, 0.75)


def _grid(
    rows: Sequence[str], columns: Sequence[str], boxes: Mapping[tuple[str, str], _Box], names: Mapping[str, str],
    note: str, ax: Axes | None,
) -> Axes:  # fmt: skip
    if not boxes:
        raise UsageError("nothing of it was measured in this run", hint="scenarios noisy-neighbour and containment do")
    with style.look():
        axes = ax
        if axes is None:
            axes = style.new_figure(1.6 + 1.1 * len(columns), 1.4 + 0.42 * len(rows)).add_subplot()
        for row, kind in enumerate(rows):
            for column, runtime in enumerate(columns):
                _draw(axes, row, column, boxes.get((kind, runtime)))
        heads = ["\n".join(textwrap.wrap(names.get(name, name), _HEAD_LETTERS)) for name in columns]
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), heads)
        axes.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("\n".join(textwrap.wrap(note, 20 + 16 * len(columns))), fontsize=8)
    return axes


def _draw(axes: Axes, row: int, column: int, box: _Box | None) -> None:
    if box is None:
        axes.text(column, row, "not tried", ha="center", va="center", color="#888888", fontsize=8)
        return
    for colour, strength in ((_NONE, 1.0), (box.colour, box.strength)):
        axes.add_patch(Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, color=colour, alpha=strength, linewidth=0))
    axes.text(column, row, box.words, ha="center", va="center", fontsize=8, color="#222222")

"""The short report as text: medians of all that has no row of its own, one line a metric, one column a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis.isolation import BOUNDARY
from harness.model.milestones import LADDER
from harness.model.report import Missing, Report
from harness.report import _tables as tables

HEADLINES = ("startup.ready", "stop.deleted", "memory.pss", "memory.cgroup.anon")
"""These, and the metrics of a gate, have a row with interval and comparison also in the short report."""
STARTUP = "startup."
MEMORY = "memory."
NAMESPACES = "isolation.namespaces.own"
NAMESPACE = "isolation.namespace."

Matrix = list[list[str]]


def width_columns(matrix: Matrix, gap_columns: int = 2) -> int:
    """Return how wide a matrix is when its cells are written side by side."""
    widths = [max(len(cell) for cell in column) for column in zip(*matrix, strict=True)]
    return sum(widths) + gap_columns * (len(widths) - 1)


def fitting(matrix: Matrix, room_columns: int) -> Matrix:
    """Return a matrix with a line for each column where it is too wide, and that is narrower: for many arms."""
    turned = [list(line) for line in zip(*matrix, strict=True)]
    too_wide = bool(matrix) and width_columns(matrix) > room_columns
    return turned if too_wide and width_columns(turned) < width_columns(matrix) else matrix


def time_matrix(report: Report) -> Matrix:
    """Return the median time from the request to each milestone, in the order of the ladder; empty without any."""
    return _medians(report, "time until", [f"{STARTUP}{name}" for name in LADDER], STARTUP)


def memory_matrix(report: Report, gated: Sequence[str]) -> Matrix:
    """Return the medians of the memory metrics that have no row of their own."""
    names = [name for name in _noisy(report) if name.startswith(MEMORY) and name not in {*HEADLINES, *gated}]
    return _medians(report, "other memory", names, MEMORY)


def others_matrix(report: Report, gated: Sequence[str]) -> Matrix:
    """Return the medians of all metrics that are in no other part of the short report."""
    ladder = {f"{STARTUP}{name}" for name in LADDER}
    told = {*HEADLINES, *gated, *ladder}
    own = (MEMORY, tables.MARKER, BOUNDARY)
    title = "median" if report.run.study else "other"
    return _medians(report, title, [name for name in _noisy(report) if name not in told and not name.startswith(own)])


def _noisy(report: Report) -> list[str]:
    return list(dict.fromkeys(cell.metric for cell in report.cells if not cell.exact))


def _medians(report: Report, title: str, metrics: Iterable[str], without: str = "") -> Matrix:
    """Return a head and one line a metric that any runtime has; names are shown without their family."""
    lines = []
    for metric in metrics:
        cells = [report.cell(metric, runtime) for runtime in report.run.runtimes]
        texts = [
            tables.NONE if cell is None or cell.median is None else tables.format_value(cell.median, cell.unit)
            for cell in cells
        ]
        if any(text != tables.NONE for text in texts):
            lines.append([metric.removeprefix(without), *texts])
    return [[title, *_labels(report)], *lines] if lines else []


def _labels(report: Report) -> list[str]:
    return [tables.runtime_label(report, runtime) for runtime in report.run.runtimes]


def property_matrix(report: Report, room_columns: int) -> Matrix:
    """Return the properties with the namespaces in one line, by name where that fits into `room_columns`."""
    lines = [line for line in tables.exact_matrix(report) if not line[0].startswith(NAMESPACE)]
    named = [_with_names(report, line) if line[0] == NAMESPACES else line for line in lines]
    return named if not named or width_columns(named) <= room_columns else lines


def _with_names(report: Report, line: list[str]) -> list[str]:
    cells = [report.cell(NAMESPACES, runtime) for runtime in report.run.runtimes]
    names = [cell.labels.get("names", "") if cell else "" for cell in cells]
    return [line[0], *(f"{text}: {name}" if name else text for text, name in zip(line[1:], names, strict=True))]


def surprising(report: Report, gated: Sequence[str]) -> list[Missing]:
    """Return the gaps that no `-` shows or that nobody expects: main metrics, some trials only, all runtimes."""
    main, everybody = {*HEADLINES, *gated}, set(report.run.runtimes)
    return [
        missing
        for missing in report.missing
        if main.intersection(missing.metrics)
        or set(missing.runtimes) == everybody
        or not everybody.issuperset(missing.runtimes)
    ]


def missing_text(missing: Missing) -> str:
    """Return one gap of the table: how many metrics of which runtimes, and why."""
    count = len(missing.metrics)
    what = missing.metrics[0] if count == 1 else f"{count} metrics ({missing.metrics[0]}, ..)"
    return f"{', '.join(missing.runtimes)}: {what}: {missing.reason}"

"""All cells of a matrix in one table: a row for each cell below each runtime, so that one sees what a key changes.

The terminal has it in `terminal.py`, a slide in `harness.charts.matrix`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.interfaces import Json
from harness.model.report import Report, Series
from harness.model.units import format_ratio
from harness.report import _compact as compact
from harness.report import _tables as tables
from harness.report._markdown_table import plain, table
from harness.report._tables import Row
from harness.report.csv import CsvRenderer
from harness.report.json import JsonRenderer

SCHEMA = "harness.matrix/1"


@dataclass(frozen=True, slots=True)
class Line:
    """One cell of one runtime: the values of the swept keys, and the row that the cell's own report has."""

    settings: tuple[str, ...]
    row: Row


@dataclass(frozen=True, slots=True)
class Group:
    """One metric of one runtime over all cells that have this runtime. `exact`: a property, without statistics."""

    metric: str
    runtime: str
    exact: bool
    lines: tuple[Line, ...]

    @property
    def head(self) -> str:
        """The metric with the arrow that says which way is better."""
        return f"{self.metric} {self.lines[0].row.arrow}".rstrip()

    @property
    def label(self) -> str:
        """The runtime with its accelerator, which a cell that failed does not know."""
        return max((line.row.runtime for line in self.lines), key=len)

    @property
    def differs(self) -> bool:
        """Whether the cells do not agree on a property."""
        return len({line.row.median for line in self.lines}) > 1


def groups(series: Series, gated: Sequence[str] = (), *, everything: bool = False) -> list[Group]:
    """Return metrics by runtime: all, or the main ones, those of the gate, and the properties that a key changes."""
    shown = {*compact.HEADLINES, *gated, *(report.run.headline for report in series.reports)}
    found = list(_groups(series))
    changed = {group.metric for group in found if group.exact and group.differs}
    return [group for group in found if everything or group.metric in {*shown, *changed}]


def _groups(series: Series) -> Iterator[Group]:
    """Yield every metric that a cell measured, by runtime; those with statistics come first."""
    cells = [cell for report in series.reports for cell in report.cells if cell.n]
    measured = {(cell.metric, cell.runtime) for cell in cells if not cell.metric.startswith(tables.MARKER)}
    exact = {cell.metric for cell in cells if cell.exact}
    told = series.settings
    runtimes = dict.fromkeys(runtime for report in series.reports for runtime in report.run.runtimes)
    for metric in sorted(dict.fromkeys(cell.metric for cell in cells), key=lambda metric: metric in exact):
        for runtime in runtimes:
            if (metric, runtime) in measured:
                lines = (
                    Line(settings, _row(report, metric, runtime))
                    for settings, report in zip(told, series.reports, strict=True)
                    if runtime in report.run.runtimes
                )
                yield Group(metric, runtime, metric in exact, tuple(lines))


def _row(report: Report, metric: str, runtime: str) -> Row:
    """Return the row of a cell's own report, that of a property, or one that says why there is no value."""
    cell = report.cell(metric, runtime)
    if cell is not None and cell.n and not cell.exact:
        return tables.row(report, cell)
    arrow = tables.ARROWS.get(report.run.metrics.get(metric, {}).get("better", "neither"), "")
    name, count = tables.runtime_label(report, runtime), str(cell.n if cell else 0)
    if cell is not None and cell.n:
        return Row(metric, arrow, name, count, tables.exact_text(cell), tables.NONE, "", "", None, cell.median or 0.0)
    failed = sum(failure.runtime == runtime for failure in report.failures)
    why = f"{failed} failed" if failed else next(iter(cell.absent if cell else ()), "not measured")
    return Row(metric, arrow, name, count, tables.NONE, tables.NONE, why, "", None, 0.0)


def headline(series: Series) -> str:
    """Return what came out in one sentence: the range of each runtime's ratio over the cells."""
    metric, control = series.reports[0].run.headline, series.reports[0].run.control
    ratios: dict[str, list[float]] = {}
    for report in series.reports:
        for runtime in report.run.runtimes:
            cell = report.cell(metric, runtime)
            if cell and cell.effect and cell.effect.kind == "ratio" and runtime != control:
                ratios.setdefault(runtime, []).append(cell.effect.value)
    parts = []
    for runtime, values in ratios.items():
        low, high = format_ratio(min(values)), format_ratio(max(values))
        parts.append(f"{runtime} {low if low == high else f'{low} to {high}'}")
    of = f"{metric} over {', '.join(series.keys)}"
    return f"{of}: against {control}: {', '.join(parts)}." if parts else f"{of}: no ratios to compare."


def facts(series: Series) -> list[tuple[str, str]]:
    """Return what stands above the table, by name."""
    first = series.reports[0]
    done = sum(report.run.status == "complete" for report in series.reports)
    failed = sum(len(report.failures) for report in series.reports)
    trials = sum(report.trials for report in series.reports)
    return [
        ("matrix", f"{first.run.scenario}, {first.run.matrix['series']}"),
        ("cells", f"{done} of {series.cells} complete, {trials} trials, {failed} failed; each is a run of its own"),
        *(("host", line) for line in dict.fromkeys(tables.host_line(report) for report in series.reports)),
    ]


def cell_lines(series: Series) -> list[tuple[str, str, str]]:
    """Return every cell's run id, what it is, and how its run ended."""
    return [(report.run.run_id, tables.cell_text(report.run), tables.state(report)) for report in series.reports]


def findings(series: Series) -> list[str]:
    """Return what a reader must know before believing a cell, each once, with the cells that it is told of."""
    told: dict[str, list[int]] = {}
    for report in series.reports:
        for finding in report.findings:
            told.setdefault(finding.message, []).append(int(report.run.matrix["number"]))
    every = len(series.reports)
    return [
        message if len(numbers) == every else f"cell {', '.join(map(str, numbers))}: {message}"
        for message, numbers in told.items()
    ]


def heads(series: Series) -> list[str]:
    """Return the heads of the table's columns behind the metric."""
    first = series.reports[0]
    return [tables.arm_word(first), *series.keys, "n", "median", "95 % interval", f"vs {first.run.control}, paired"]


def words(group: Group) -> Iterator[list[str]]:
    """Yield the cells of a group's lines, as `heads` says; the runtime's name stands in the first one only."""
    for place, line in enumerate(group.lines):
        row = line.row
        effect = f"{row.effect} {row.wording}".rstrip()
        yield ["" if place else group.label, *line.settings, row.n, row.median, row.interval, effect]


def as_markdown(series: Series) -> str:
    """Return the table as GitHub-flavoured Markdown, with every metric."""
    lines = [f"# {plain(headline(series))}\n"]
    lines += [f"- {name}: {plain(text)}" for name, text in facts(series)]
    columns = len(series.keys)
    body = [
        [group.head if place == 0 else "", *cells]
        for group in groups(series, everything=True)
        for place, cells in enumerate(words(group))
    ]
    lines += ["", *table(["metric", *heads(series)], body, frozenset({2 + columns, 3 + columns}))]
    lines += ["", "↓ lower is better, ↑ higher is better; [ ] 95 % interval of the paired effect", ""]
    lines += [f"- {plain(text)}" for text in findings(series)]
    lines += ["", *table(["run", "cell", "ended"], cell_lines(series))]
    return "\n".join(lines) + "\n"


def as_csv(series: Series) -> str:
    """Return one line a cell, metric and runtime: the swept keys, then what the csv format has."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for place, report in enumerate(series.reports):
        head, *lines = csv.reader(io.StringIO(CsvRenderer().render(report)))
        if place == 0:
            writer.writerow([*series.keys, *head])
        settings = report.run.matrix["cell"].values()
        writer.writerows([*settings, *line] for line in lines)
    return text.getvalue()


def as_json(series: Series) -> str:
    """Return one document with the report of each cell."""
    document = {
        "schema": SCHEMA,
        "headline": headline(series),
        "series": series.reports[0].run.matrix["series"],
        "keys": list(series.keys),
        "planned": series.cells,
        "cells": [_cell_json(report) for report in series.reports],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _cell_json(report: Report) -> Json:
    matrix = report.run.matrix
    return {
        "number": matrix["number"], "cell": dict(matrix["cell"]), "report": json.loads(JsonRenderer().render(report)),
    }  # fmt: skip

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
    """One metric of one runtime over all cells that measured it."""

    metric: str
    arrow: str
    runtime: str
    lines: tuple[Line, ...]


def groups(series: Series, gated: Sequence[str] = (), *, everything: bool = False) -> list[Group]:
    """Return the main metrics and those of the gate, or all, by metric and runtime."""
    first = series.reports[0]
    shown = {first.run.headline, *compact.HEADLINES, *gated}
    found: dict[tuple[str, str], list[Line]] = {}
    arrows: dict[str, str] = {}
    for report in series.reports:
        settings = tuple(report.run.matrix["cell"].values())
        for row in tables.rows(report, without=(tables.MARKER,)):
            if everything or row.metric in shown:
                arrows[row.metric] = row.arrow
                found.setdefault((row.metric, row.runtime), []).append(Line(settings, row))
    metrics = {metric: place for place, metric in enumerate(dict.fromkeys(metric for metric, _ in found))}
    ordered = sorted(found.items(), key=lambda item: metrics[item[0][0]])
    return [Group(metric, arrows[metric], runtime, tuple(lines)) for (metric, runtime), lines in ordered]


def headline(series: Series) -> str:
    """Return what came out in one sentence: the range of each runtime's ratio over the cells."""
    first = series.reports[0].run
    parts = []
    for runtime in first.runtimes:
        cells = [report.cell(first.headline, runtime) for report in series.reports]
        ratios = [cell.effect.value for cell in cells if cell and cell.effect and cell.effect.kind == "ratio"]
        if ratios and runtime != first.control:
            low, high = format_ratio(min(ratios)), format_ratio(max(ratios))
            parts.append(f"{runtime} {low if low == high else f'{low} to {high}'}")
    of = f"{first.headline} over {', '.join(series.keys)}"
    return f"{of}: against {first.control}: {', '.join(parts)}." if parts else f"{of}: nothing to compare."


def facts(series: Series) -> list[tuple[str, str]]:
    """Return what stands above the table, by name."""
    first = series.reports[0]
    done = sum(report.run.status == "complete" for report in series.reports)
    failed = sum(len(report.failures) for report in series.reports)
    trials = sum(report.trials for report in series.reports)
    return [
        ("matrix", f"{first.run.scenario}, {first.run.matrix['series']}"),
        ("cells", f"{done} of {series.cells} complete, {trials} trials, {failed} failed; each is a run of its own"),
        ("host", tables.host_line(first)),
    ]


def cell_lines(series: Series) -> list[tuple[str, str, str]]:
    """Return every cell's run id, what it is, and how its run ended where it is not complete."""
    return [
        (report.run.run_id, tables.cell_text(report.run),
         "" if report.run.status == "complete" else f" ({tables.state(report)})")
        for report in series.reports
    ]  # fmt: skip


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
        yield ["" if place else group.runtime, *line.settings, row.n, row.median, row.interval, effect]


def as_markdown(series: Series) -> str:
    """Return the table as GitHub-flavoured Markdown, with every metric."""
    lines = [f"# {plain(headline(series))}\n"]
    lines += [f"- {name}: {plain(text)}" for name, text in facts(series)]
    columns = len(series.keys)
    body = [
        [f"{group.metric} {group.arrow}".rstrip() if place == 0 else "", *cells]
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

"""A run's figures as others define them, in plain text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

from harness.analysis.definitions import DEFINITIONS, Cell, cells
from harness.errors import UsageError
from harness.model.document import did_you_mean
from harness.model.report import Report
from harness.report import _markdown_table as markdown
from harness.report import _tables as tables

SCHEMA = "harness.definitions/1"
ALL = "all"
FORMATS = ("terminal", "markdown", "json")


def names_of(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the definitions that were asked for, ours first. Raises: UsageError for one that nobody knows."""
    for name in asked:
        if name != ALL and name not in DEFINITIONS:
            suggestion = did_you_mean(name, DEFINITIONS)
            raise UsageError(f"--definition: {name}: unknown{suggestion}", hint=f"known: {', '.join(DEFINITIONS)}, all")
    chosen = tuple(DEFINITIONS) if ALL in asked else tuple(name for name in DEFINITIONS if name in asked)
    return ("harness", *(name for name in chosen if name != "harness"))


def render(report: Report, names: Sequence[str], format_name: str) -> str:
    """Return the figures side by side. Raises: UsageError for a format that there is not."""
    found = cells(report.run, report.records, names)
    if format_name == "json":
        return json.dumps(_document(report, found), indent=2, ensure_ascii=False) + "\n"
    if format_name not in FORMATS:
        raise UsageError(f"--definition: --format {format_name}: not for it", hint=f"known: {', '.join(FORMATS)}")
    lines = _markdown(report, names, found) if format_name == "markdown" else _text(report, names, found)
    return "\n".join(lines) + "\n"


def _matrix(report: Report, found: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return a head and one line a figure: who counts so, what, and the median of each runtime."""
    runtimes = report.run.runtimes
    head = ["definition", "figure", *(tables.runtime_label(report, runtime) for runtime in runtimes), "here"]
    by_figure: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in found:
        by_figure.setdefault((cell.definition, cell.figure.name), {})[cell.runtime] = cell
    lines = []
    for (definition, name), own in by_figure.items():
        figure = next(iter(own.values())).figure
        lines.append([definition, name, *(_median(own[runtime]) for runtime in runtimes), figure.ours])
    return head, lines


def _median(cell: Cell) -> str:
    return "-" if cell.estimate is None else tables.format_value(cell.estimate.value, cell.figure.unit)


def _explained(names: Sequence[str]) -> list[tuple[str, str]]:
    lines = []
    for name in names:
        definition = DEFINITIONS[name]
        lines.append((name, definition.source))
        lines += [(f"  {figure.name}", figure.doc) for figure in definition.figures]
    return lines


def _text(report: Report, names: Sequence[str], found: Sequence[Cell]) -> Iterator[str]:
    head, lines = _matrix(report, found)
    widths = [max(len(row[place]) for row in (head, *lines)) for place in range(len(head))]
    yield f"{report.run.run_id}: medians, as others define them"
    yield ""
    for row in (head, *lines):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    for name, doc in _explained(names):
        yield from wrap(f"{name}: {doc}", 100, subsequent_indent="    ", initial_indent="")
    missing: dict[tuple[str, str], list[str]] = {}
    for cell in found:
        if cell.estimate is None:
            missing.setdefault((cell.figure.name, cell.reason), []).append(cell.runtime)
    if missing:
        yield ""
        yield "not there (-)"
    for (name, reason), runtimes in missing.items():
        yield f"  {', '.join(dict.fromkeys(runtimes))}: {name}: {reason}"


def _markdown(report: Report, names: Sequence[str], found: Sequence[Cell]) -> Iterator[str]:
    head, lines = _matrix(report, found)
    yield from markdown.table(head, lines, frozenset(range(2, len(head) - 1)))
    yield ""
    for name, doc in _explained(names):
        indent = "  " if name.startswith("  ") else ""
        yield f"{indent}- **{markdown.plain(name.strip())}**: {markdown.plain(doc)}"


def _document(report: Report, found: Sequence[Cell]) -> dict[str, Any]:
    rows = [
        {"definition": cell.definition, "figure": cell.figure.name, "doc": cell.figure.doc, "ours": cell.figure.ours,
         "unit": cell.figure.unit, "runtime": cell.runtime,
         "median": cell.estimate and cell.estimate.value, "lo": cell.estimate and cell.estimate.lo,
         "hi": cell.estimate and cell.estimate.hi, "n": cell.estimate.n if cell.estimate else 0,
         "reason": cell.reason or None}
        for cell in found
    ]  # fmt: skip
    return {"schema": SCHEMA, "run_id": report.run.run_id, "figures": rows}

"""The report for a terminal: headline, facts, one row a metric and runtime, properties, findings with what helps.

Width and colour follow where the text goes: 100 columns and no escape codes outside a terminal; NO_COLOR is kept.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from harness.interfaces import Renderer
from harness.model.report import Claim, Report
from harness.report import _tables as tables
from harness.report._tables import Row

PLAIN_WIDTH = 100
PROSE_WIDTH_MAX = 110
_GAP = "  "
_VERDICT_STYLES = {"holds": "bold green", "fails": "bold red", "not shown": "bold yellow"}


class TerminalRenderer:
    """`width_columns` and `colour` are found out where they are None."""

    name = "terminal"
    suffix = ".txt"
    doc = "tables for a terminal"

    def __init__(self, width_columns: int | None = None, *, colour: bool | None = None) -> None:
        self._width_columns = width_columns
        self._colour = colour

    def render(self, report: Report) -> str:
        console = self._console()
        _head(console, report)
        _table(console, report)
        _matrix(console, report)
        _remarks(console, report)
        _close(console, report)
        return _text(console)

    def render_claims(self, report: Report) -> str:
        """Return the comparison table of the text, each row with what was measured and the verdict."""
        console = self._console()
        _prose(console, "What is commonly said of VMs and containers, held against one run", style="bold")
        _prose(console, f"{report.run.run_id}, {tables.counts(report)}", prefix="run   ", style="dim")
        _prose(console, tables.host_line(report), prefix="host  ", style="dim")
        for claim in report.claims:
            _claim(console, claim)
        return _text(console)

    def _console(self) -> Console:
        tty = sys.stdout.isatty()
        plain = not tty or bool(os.environ.get("CI"))
        width = PLAIN_WIDTH if plain and "COLUMNS" not in os.environ else shutil.get_terminal_size().columns
        colour = tty and os.environ.get("TERM") != "dumb" if self._colour is None else self._colour
        return Console(
            file=io.StringIO(),
            width=self._width_columns or width,
            force_terminal=colour,
            color_system="standard" if colour else None,
            legacy_windows=False,
            highlight=False,
            emoji=False,
            markup=False,
        )


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _prose(console: Console, text: str | Text, *, prefix: str | Text = "", style: str = "") -> None:
    """Write a paragraph, wrapped; its lines after the first begin below the end of `prefix`."""
    first = prefix if isinstance(prefix, Text) else Text(prefix, style=style)
    body = text if isinstance(text, Text) else Text(text, style=style)
    lines = body.wrap(console, max(20, min(console.width, PROSE_WIDTH_MAX) - len(first)))
    for place, line in enumerate(lines):
        line.rstrip()
        console.print(Text.assemble(first if place == 0 else " " * len(first), line), soft_wrap=True)


def _head(console: Console, report: Report) -> None:
    run = report.run
    _prose(console, tables.headline(report), style="bold")
    console.print()
    state = run.status if not run.stop_reason else f"{run.status}: {run.stop_reason}"
    facts = [
        ("run", run.run_id),
        ("", state),
        ("trials", f"{tables.counts(report)}, order seed {run.seed}"),
        ("host", tables.host_line(report)),
        ("workload", tables.identity_line(report)),
        *(("" if place else "inside", line) for place, line in enumerate(tables.seen_lines(report))),
    ]
    for name, value in facts:
        style = "bold red" if name == "workload" and not report.identity.identical else ""
        _prose(console, Text(value, style=style), prefix=Text(f"{name:<10}", style="dim"))
    for difference in report.identity.differences:
        _prose(console, difference, prefix="  ! ", style="red")


def _cells(row: Row, *, with_metric: bool) -> list[str]:
    metric = [f"{row.metric} {row.arrow}".rstrip()] if with_metric else []
    return [*metric, row.runtime, row.n, row.median, row.interval, f"{row.effect} {row.wording}".rstrip()]


def _table(console: Console, report: Report) -> None:
    """Write the metric beside its rows where that fits, and on a line of its own above them where it does not."""
    rows = tables.rows(report, without=(tables.MARKER,))
    if not rows:
        return
    heads = ["metric", "runtime", "n", "median", "95 % interval", f"vs {report.run.control}, paired"]
    lines = [_cells(row, with_metric=True) for row in rows]
    wide = sum(_widths([heads, *lines])) + len(_GAP) * (len(heads) - 1) <= console.width
    if not wide:
        heads = [f"  {heads[1]}", *heads[2:]]
        lines = [_cells(row, with_metric=False) for row in rows]
        lines = [[f"  {line[0]}", *line[1:]] for line in lines]
    widths = _widths([heads, *lines])
    console.print()
    _line(console, heads, widths, style="dim")
    for _, group in groupby(zip(rows, lines, strict=True), key=lambda pair: pair[0].metric):
        _group(console, list(group), widths, wide=wide)
    console.print(Text("↓ lower is better   ↑ higher is better   [ ] 95 % interval", style="dim"))
    marker_line = tables.marker_line(report)
    if marker_line:
        _prose(console, marker_line, style="dim")


def _group(console: Console, group: Sequence[tuple[Row, list[str]]], widths: Sequence[int], *, wide: bool) -> None:
    first = group[0][0]
    if not wide:
        console.print(Text(f"{first.metric} {first.arrow}".rstrip(), style="bold"))
    for place, (row, line) in enumerate(group):
        shown = [line[0] if place == 0 else "", *line[1:]] if wide else line
        _line(console, shown, widths, style=_row_style(row))


def _row_style(row: Row) -> str:
    return "" if row.worse is None else "yellow" if row.worse else "green"


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]


def _line(console: Console, cells: Sequence[str], widths: Sequence[int], *, style: str) -> None:
    """Write one row; counts and medians are aligned right, and only the effect carries the colour."""
    right = {len(cells) - 4, len(cells) - 3}
    padded = [
        cell.rjust(width) if place in right else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    if style == "dim":
        text = Text(_GAP.join(padded).rstrip(), style="dim")
    else:
        text = Text.assemble(_GAP.join(padded[:-1]), _GAP, (padded[-1].rstrip(), style))
    console.print(text, overflow="ignore", no_wrap=True, crop=False)


def _matrix(console: Console, report: Report) -> None:
    matrix = tables.exact_matrix(report)
    if not matrix:
        return
    widths = _widths(matrix)
    console.print()
    for place, line in enumerate(matrix):
        text = _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        console.print(Text(text, style="dim" if place == 0 else ""), overflow="ignore", no_wrap=True, crop=False)
    if any(cell.endswith(tables.OWN_KERNEL_MARK) for line in matrix for cell in line):
        console.print(Text(tables.OWN_KERNEL_NOTE, style="dim"))


def _remarks(console: Console, report: Report) -> None:
    if report.findings:
        console.print()
    for finding in report.findings:
        _prose(console, finding.message, prefix=Text("! ", style="bold yellow"))
        if finding.remedy:
            _prose(console, finding.remedy, prefix="  -> ", style="dim")
    if report.failures:
        console.print("\nfailed trials")
    for failure in report.failures:
        _prose(console, failure.error, prefix=f"  {failure.trial_id} ({failure.status}): ")
    if report.missing:
        console.print(Text("\nnot measured", style="dim"))
    for missing in report.missing:
        _prose(console, tables.missing_text(missing), prefix="  ", style="dim")


def _close(console: Console, report: Report) -> None:
    """The last lines are those that a terminal still shows: say once more what came out."""
    console.print()
    _prose(console, tables.headline(report), style="bold")


def _claim(console: Console, claim: Claim) -> None:
    console.print()
    console.print(Text.assemble((claim.feature, "bold"), ": ", (claim.verdict, _VERDICT_STYLES[claim.verdict])))
    _prose(console, f"VM: {claim.claim_vm}; container: {claim.claim_container}", prefix="  claimed   ")
    _prose(console, claim.measured_vm, prefix="  measured  ")
    _prose(console, claim.measured_container, prefix="            ")
    _prose(console, claim.reason, prefix="  because   ")
    if claim.remark:
        _prose(console, claim.remark, prefix="  note      ", style="dim")


PLUGIN: Renderer = TerminalRenderer()

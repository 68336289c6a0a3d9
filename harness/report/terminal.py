"""The report for a terminal: headline, facts, one row a metric and runtime, properties, findings with what helps.

The short form has rows for the main metrics only, medians of the others, and says how to see all.

Width and colour follow where the text goes: 100 columns and no escape codes outside a terminal; NO_COLOR is kept.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby, zip_longest

from rich.console import Console
from rich.text import Text

from harness.analysis.isolation import BOUNDARY
from harness.interfaces import Renderer
from harness.model.report import Claim, Report, Series
from harness.report import _claims as claim_words
from harness.report import _compact as compact
from harness.report import _density as density
from harness.report import _isolation as isolation
from harness.report import _ledger as ledger
from harness.report import _series as matrices
from harness.report import _tables as tables
from harness.report._tables import Row

PLAIN_WIDTH = 100
PROSE_WIDTH_MAX = 110
_GAP = "  "
_BETWEEN = "    "
_VERDICT_STYLES = {"holds": "bold green", "fails": "bold red", "not shown": "bold yellow"}


class TerminalRenderer:
    """`width_columns` and `colour` are found out where they are None.

    `everything`: a row with interval and comparison for every metric; without, for the main ones and those `gated`.
    """

    name = "terminal"
    suffix = ".txt"
    doc = "tables for a terminal"

    def __init__(
        self,
        width_columns: int | None = None,
        *,
        colour: bool | None = None,
        everything: bool = False,
        gated: Sequence[str] = (),
    ) -> None:
        self._width_columns = width_columns
        self._colour = colour
        self._everything = everything
        self._gated = tuple(gated)

    def render(self, report: Report) -> str:
        console = self._console()
        shown = sorted({report.run.headline, *compact.HEADLINES, *self._gated})
        _head(console, report)
        for place, line in enumerate(isolation.report_lines(report)):
            _prose(console, line, prefix="          " if place else "reach     ")
        if self._everything:
            _table(console, report, tables.rows(report, without=(tables.MARKER, BOUNDARY)))
            _marker_line(console, report)
            properties = tables.exact_matrix(report)
            _matrix(console, compact.fitting(ledger.matrix(report), console.width))
        else:
            _table(console, report, [row for row in tables.rows(report) if row.metric in shown])
            _medians(console, report, shown)
            properties = compact.property_matrix(report, console.width)
        for matrix in (isolation.without_boundary(properties), isolation.boundary_matrix(report)):
            _matrix(console, compact.fitting(matrix, console.width))
        _matrix(console, density.matrix(report))
        for line in density.endings(report):
            _prose(console, line)
        _findings(console, report)
        if self._everything:
            _missing(console, [tables.missing_text(missing) for missing in report.missing])
            console.print()
        else:
            surprising = compact.surprising(report, shown)
            _missing(console, [compact.missing_text(missing) for missing in surprising])
            _how_to_see_all(console, report, left_out=len(report.missing) - len(surprising))
        # The last lines are those that a terminal still shows: say once more what came out.
        _prose(console, tables.headline(report), style="bold")
        return _text(console)

    def render_claims(self, reports: Sequence[Report], claims: Sequence[Claim]) -> str:
        """Return the claims of the text, each with what was measured, the verdict, and of several runs which."""
        console = self._console()
        held = "one run" if len(reports) == 1 else f"{len(reports)} runs"
        _prose(console, f"What is commonly said of VMs and containers, held against {held}", style="bold")
        for report in reports:
            _prose(console, f"{report.run.run_id}, {tables.counts(report)}", prefix="run   ", style="dim")
        for line in dict.fromkeys(tables.host_line(report) for report in reports):
            _prose(console, line, prefix="host  ", style="dim")
        for claim in claims:
            _claim(console, claim, name_run=len(reports) > 1)
        return _text(console)

    def render_series(self, series: Series) -> str:
        """Return the cells of a matrix, a row for each below each runtime."""
        console = self._console()
        _prose(console, matrices.headline(series), style="bold")
        console.print()
        for name, value in matrices.facts(series):
            _prose(console, value, prefix=Text(f"{name:<10}", style="dim"))
        _series_table(console, series, matrices.groups(series, self._gated, everything=self._everything))
        _findings_of(console, matrices.findings(series))
        console.print(Text("\nevery metric of one cell: harness report RUN", style="dim"))
        for run_id, what, state in matrices.cell_lines(series):
            _prose(console, what, prefix=f"  {run_id}  ")
            _prose(console, state, prefix="    ", style="dim")
        _prose(console, matrices.headline(series), style="bold")
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
    state = tables.state(report)
    facts = [
        ("run", run.run_id),
        ("", state),
        *([("cell", tables.cell_text(run))] if run.matrix else []),
        ("trials", f"{tables.counts(report)}, order seed {run.seed}"),
        ("host", tables.host_line(report)),
        tables.subject_line(report),
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


def _table(console: Console, report: Report, rows: Sequence[Row]) -> None:
    """Write the metric beside its rows where that fits, and on a line of its own above them where it does not."""
    if not rows:
        return
    heads = ["metric", tables.arm_word(report), "n", "median", "95 % interval", f"vs {report.run.control}, paired"]
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


def _series_table(console: Console, series: Series, groups: Sequence[matrices.Group]) -> None:
    heads = matrices.heads(series)
    lines = [list(matrices.words(group)) for group in groups]
    widths = _widths([heads, *(line for group in lines for line in group)])
    for _, members in groupby(zip(groups, lines, strict=True), key=lambda pair: pair[0].metric):
        of_metric = list(members)
        console.print(Text(f"\n{of_metric[0][0].head}", style="bold"))
        _line(console, [f"  {heads[0]}", *heads[1:]], [widths[0] + 2, *widths[1:]], style="dim")
        for group, own in of_metric:
            for one, line in zip(group.lines, own, strict=True):
                _line(console, [f"  {line[0]}", *line[1:]], [widths[0] + 2, *widths[1:]], style=_row_style(one.row))
    console.print(Text("↓ lower is better   ↑ higher is better   [ ] 95 % interval", style="dim"))


def _findings_of(console: Console, messages: Sequence[str]) -> None:
    if messages:
        console.print()
    for message in messages:
        _prose(console, message, prefix=Text("! ", style="bold yellow"))


def _marker_line(console: Console, report: Report) -> None:
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
    _whole(console, text)


def _medians(console: Console, report: Report, gated: Sequence[str]) -> None:
    """Write the medians of all metrics without a row of their own: time and memory side by side where that fits."""
    parts = [
        _aligned(compact.fitting(part, console.width))
        for part in (
            compact.time_matrix(report),
            compact.memory_matrix(report, gated),
            compact.others_matrix(report, gated),
        )
        if part
    ]
    while parts:
        block = parts.pop(0)
        width = max(map(len, block))
        if parts and width + len(_BETWEEN) + max(map(len, parts[0])) <= console.width:
            beside = parts.pop(0)
            pairs = zip_longest(block, beside, fillvalue="")
            block = [f"{left.ljust(width)}{_BETWEEN}{right}".rstrip() for left, right in pairs]
        console.print()
        for place, line in enumerate(block):
            _whole(console, Text(line, style="dim" if place == 0 else ""))


def _aligned(matrix: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a matrix of numbers: names left, numbers right."""
    widths = _widths(matrix)
    return [
        _GAP.join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in matrix)
    ]


def _whole(console: Console, line: Text) -> None:
    """Write a line as it is, also where it is longer than the terminal is wide."""
    console.print(line, overflow="ignore", no_wrap=True, crop=False)


def _matrix(console: Console, matrix: Sequence[Sequence[str]]) -> None:
    if not matrix:
        return
    widths = _widths(matrix)
    console.print()
    for place, line in enumerate(matrix):
        text = _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        _whole(console, Text(text, style="dim" if place == 0 else ""))
    if any(cell.endswith(tables.OWN_KERNEL_MARK) for line in matrix for cell in line):
        console.print(Text(tables.OWN_KERNEL_NOTE, style="dim"))


def _findings(console: Console, report: Report) -> None:
    if report.findings:
        console.print()
    for finding in report.findings:
        _prose(console, finding.message, prefix=Text("! ", style="bold yellow"))
        if finding.remedy:
            _prose(console, finding.remedy, prefix="  -> ", style="dim")
    if report.failures:
        console.print("\nfailed trials")
    for failure in report.failures:
        _prose(console, failure.error, prefix=f"  {failure.trial_id} ({tables.how(failure)}): ")


def _missing(console: Console, lines: Sequence[str]) -> None:
    if lines:
        console.print(Text("\nnot measured", style="dim"))
    for line in lines:
        _prose(console, line, prefix="  ", style="dim")


def _how_to_see_all(console: Console, report: Report, *, left_out: int) -> None:
    """`left_out` counts the gaps that only a `-` shows."""
    why = ", and why some are missing (-)" if left_out else ""
    console.print(Text(f"\nevery metric with its interval{why}:", style="dim"))
    _whole(console, Text(f"  harness report {report.run.run_id} --all", style="dim"))


def _claim(console: Console, claim: Claim, *, name_run: bool) -> None:
    console.print()
    console.print(
        Text.assemble((claim.feature, "bold"), ": ", (claim_words.verdict(claim), _VERDICT_STYLES[claim.verdict]))
    )
    vm = f"VM: {claim.claim_vm}; container: " if claim.claim_vm else ""
    _prose(console, f"{vm}{claim.claim_container}", prefix="  claimed   ")
    measured = [text for text in (claim.measured_vm, claim.measured_container) if text]
    for place, text in enumerate(measured):
        _prose(console, text, prefix="            " if place else "  measured  ")
    if claim.contrast:
        _prose(console, claim_words.effect(claim), prefix="  effect    ")
    _prose(console, claim.reason, prefix="  because   ")
    if name_run and claim.run_id:
        _prose(console, claim.run_id, prefix="  run       ", style="dim")
    if claim.measured_container:
        _prose(console, f"scenarios/{claim.scenario}.yaml", prefix="  scenario  ", style="dim")
    if claim.remark:
        _prose(console, claim.remark, prefix="  note      ", style="dim")


PLUGIN: Renderer = TerminalRenderer()

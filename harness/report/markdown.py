"""The report as GitHub-flavoured Markdown: for pull requests, wikis and job summaries."""

from __future__ import annotations

from collections.abc import Iterator

from harness.analysis.isolation import BOUNDARY
from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report import _claims as claims
from harness.report import _density as density
from harness.report import _isolation as isolation
from harness.report import _ledger as ledger
from harness.report import _tables as tables
from harness.report._markdown_table import plain, table


def _facts(report: Report) -> Iterator[str]:
    run = report.run
    yield f"- run: `{run.run_id}` ({plain(tables.state(report))})"
    if run.matrix:
        yield f"- cell: {plain(tables.cell_text(run))}"
    yield f"- trials: {tables.counts(report)}, order seed {run.seed}"
    yield f"- host: {plain(tables.host_line(report))}"
    name, line = tables.subject_line(report)
    yield f"- {name}: {plain(line)}"
    for line in tables.seen_lines(report):
        yield f"- {plain(line)}"
    for difference in report.identity.differences:
        yield f"- **{plain(difference)}**"


def _measurements(report: Report) -> Iterator[str]:
    rows = tables.rows(report, without=(BOUNDARY,))
    if not rows:
        return
    yield "\n## Measured\n"
    head = ["metric", tables.arm_word(report), "n", "median", "95 % interval", f"vs {report.run.control}, paired", ""]
    lines = [
        [f"{row.metric} {row.arrow}".rstrip(), row.runtime, row.n, row.median, row.interval, row.effect, row.wording]
        for row in rows
    ]
    yield from table(head, lines, frozenset({2, 3}))
    yield "\n↓ lower is better, ↑ higher is better; [ ] 95 % interval of the paired effect"


def _density(report: Report) -> Iterator[str]:
    matrix = density.matrix(report)
    if matrix:
        yield f"\n## {density.TITLE}\n"
        yield from table(matrix[0], matrix[1:], frozenset(range(1, len(matrix[0]))))
        picture = density.bars(report)
        yield from ("\n```", *picture, "```") if picture else ()
        yield f"\n{plain(density.NOTE)}"
    for line in density.endings(report):
        yield f"- {plain(line)}"


def _ledger(report: Report) -> Iterator[str]:
    matrix = ledger.matrix(report)
    if matrix:
        yield f"\n## {ledger.TITLE}\n"
        yield from table(matrix[0], matrix[1:], frozenset(range(1, len(matrix[0]))))
        yield f"\n{plain(ledger.NOTE)}"


def _properties(report: Report) -> Iterator[str]:
    matrix = isolation.without_boundary(tables.exact_matrix(report))
    if matrix:
        yield "\n## Properties\n"
        yield from table(matrix[0], matrix[1:])
        if any(cell.endswith(tables.OWN_KERNEL_MARK) for line in matrix for cell in line):
            yield f"\n{plain(tables.OWN_KERNEL_NOTE)}"
    between = isolation.boundary_matrix(report)
    if between:
        yield "\n## The process in between\n"
        yield from table(between[0], between[1:])
        yield f"\n{plain(isolation.BOUNDARY_NOTE)}"


def _claims(report: Report) -> Iterator[str]:
    if report.claims:
        yield "\n## Common claims\n"
        yield from table(claims.HEADS, claims.rows(report.claims))


def _findings(report: Report) -> Iterator[str]:
    if report.findings:
        yield "\n## Before believing this\n"
    for finding in report.findings:
        remedy = f" *{plain(finding.remedy)}*" if finding.remedy else ""
        yield f"- {plain(finding.message)}{remedy}"
    if report.failures:
        yield "\n## Failed trials\n"
    for failure in report.failures:
        yield f"- `{failure.trial_id}` ({tables.how(failure)}): {plain(failure.error)}"
    if report.missing:
        yield "\n## Not measured\n"
    for missing in report.missing:
        yield f"- {plain(tables.missing_text(missing, most=99))}"


class MarkdownRenderer:
    name = "markdown"
    suffix = ".md"
    doc = "GitHub-flavoured Markdown"

    def render(self, report: Report) -> str:
        lines = [f"# {plain(report.run.scenario)}\n", f"**{plain(tables.headline(report))}**\n"]
        parts = (
            _facts, _findings_first, _isolation, _measurements, _ledger, _density, _properties, _claims, _findings,
        )  # fmt: skip
        for part in parts:
            lines.extend(part(report))
        return "\n".join(lines) + "\n"


def _isolation(report: Report) -> Iterator[str]:
    lines = isolation.report_lines(report)
    if lines:
        yield "\n## What of the host is within reach\n" if isolation.measured(report) else "\n## Isolation\n"
    yield from (f"- {plain(line.strip())}" for line in lines)


def _findings_first(report: Report) -> Iterator[str]:
    """Point at the findings from above the table, so that nobody reads numbers without them."""
    if report.findings:
        count = len(report.findings)
        yield f"- **{count} finding{'' if count == 1 else 's'}** that change how to read this, below the tables"


PLUGIN: Renderer = MarkdownRenderer()

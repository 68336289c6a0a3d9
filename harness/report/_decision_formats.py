"""A gate's decision as text, Markdown, JSON and JUnit, and as annotations of GitHub's log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree as ET

from harness.analysis.decision import Decision
from harness.analysis.gate import Change
from harness.report import _decision as words
from harness.report import _junit, _trend
from harness.report._markdown_table import table

SCHEMA = "harness.gate/1"
_MAX_ANNOTATIONS = 5
_MAX_ROWS = 200
_MAX_CHARTS = 4
_MAX_BYTES = 60_000
"""GitHub shows no job summary beyond 1 MiB, and takes no comment beyond 65,536 characters."""
_SIGNS = {
    "regressed": "❌", "worse-small": "⚠️", "improved": "✅", "equivalent": "✅", "inconclusive": "❔",
    "not-comparable": "❔",
}  # fmt: skip


def as_text(decision: Decision, *, everything: bool = False) -> str:
    """Return the decision for a terminal, 100 columns wide at most, reasons on lines of their own where they matter."""
    changes = words.shown(decision, everything=everything)
    lines = [words.title(decision)]
    if changes:
        rows = [list(words.HEAD[:-1]), *(words.row(change)[:-1] for change in changes)]
        widths = [max(len(line[place]) for line in rows) for place in range(len(rows[0]))]
        lines.append("")
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in rows
        ]
        lines += ["", words.legend(changes)]
    lines += [f"{one.verdict}: {one.metric} of {one.runtime}: {words.row(one)[-1]}" for one in changes if _matters(one)]
    lines += [f"cannot be compared: {reason}" for reason in decision.refusals]
    return "\n".join([*lines, "", words.OUTCOMES[decision.outcome], ""])


def _matters(change: Change) -> bool:
    return change.gated and change.verdict not in {"equivalent", "improved"}


def as_markdown(decision: Decision) -> str:
    """Return the decision for a job summary or a comment: the verdict first, the rest folded."""
    changes = words.ordered(decision)
    lines = [f"## {_sign(decision)} {words.OUTCOMES[decision.outcome]}", "", words.title(decision), ""]
    lines += [f"- cannot be compared: {reason}" for reason in decision.refusals]
    first = [change for change in changes if change.gated]
    rest = [change for change in changes if not change.gated][:_MAX_ROWS]
    if first:
        lines += [*table(words.HEAD, [_marked(change) for change in first]), "", words.legend(changes)]
    lines += _trends(decision)
    if rest:
        lines += ["", "<details><summary>Metrics that are not guarded</summary>", ""]
        lines += [*table(words.HEAD, [_marked(change) for change in rest]), "", "</details>"]
    return _fitting("\n".join([*lines, ""]))


def _trends(decision: Decision) -> Iterator[str]:
    """Yield the newest runs of each guarded series as a line of blocks, those that matter as a chart too."""
    verdicts = {(change.metric, change.runtime): change.verdict for change in decision.gated}
    guarded = [one for one in decision.series if (one.series.metric, one.series.runtime) in verdicts]
    if not guarded:
        return
    yield from ("", f"Newest {_trend.LAST} runs, oldest first:", "")
    for one in guarded:
        values = _trend.newest(one)
        line = f"`{_trend.sparkline(values)}` {min(values):.4g} to {max(values):.4g}"
        yield f"- {one.series.metric} of {one.series.runtime}: {line}"
    red = [one for one in guarded if verdicts[one.series.metric, one.series.runtime] == "regressed"]
    for one in (red or guarded)[:_MAX_CHARTS]:
        yield from ("", *_trend.mermaid(one))


def _fitting(text: str) -> str:
    """Return text that a job summary and a comment take, cut at the end of a line."""
    data = text.encode()
    if len(data) <= _MAX_BYTES:
        return text
    kept = data[:_MAX_BYTES].decode(errors="ignore").rpartition("\n")[0]
    return f"{kept}\n\n(cut: the whole table is in the other formats)\n"


def _sign(decision: Decision) -> str:
    return {"passed": "✅", "regressed": "❌"}.get(decision.outcome, "❔")


def _marked(change: Change) -> list[str]:
    cells = words.row(change)
    return [*cells[:5], f"{_SIGNS[change.verdict]} {cells[5]}", cells[6]]


def as_document(decision: Decision) -> dict[str, Any]:
    """Return the decision as JSON data."""
    return {
        "schema": SCHEMA,
        "outcome": decision.outcome,
        "kind": decision.kind,
        "base": decision.base,
        "candidate": decision.candidate,
        "margin": decision.policy.margin,
        "metrics": list(decision.policy.metrics),
        "refusals": list(decision.refusals),
        "confirmation": decision.confirmation or None,
        "changes": [asdict(change) for change in words.ordered(decision)],
    }


def as_junit(decision: Decision, *, scenario: str, properties: Mapping[str, str]) -> str:
    """Return the guarded metrics as test cases: a failure has regressed, skipped is undecided or not comparable."""
    suite = _junit.suite(scenario, properties)
    for change in decision.gated:
        case = ET.SubElement(
            suite, "testcase", classname=f"{scenario}.{change.runtime}", name=f"{change.metric}: no regression"
        )
        _judge_case(case, change)
    if decision.refusals or not decision.gated:
        text = "; ".join(decision.refusals) or "no guarded metric is in both"
        _comparable(suite, scenario, "not-comparable", text)
    return _junit.text_of(suite)


def _judge_case(case: ET.Element, change: Change) -> None:
    said = _junit.printable(f"{words.amount(change)} {change.reason}".strip())
    if change.verdict == "regressed" and not change.accepted:
        ET.SubElement(case, "failure", type="regressed", message=said).text = f"{change.n} values"
    elif change.verdict in {"inconclusive", "not-comparable"}:
        ET.SubElement(case, "skipped", message=f"{change.verdict}: {said}")


def _comparable(suite: ET.Element, scenario: str, kind: str, message: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=scenario, name="comparable")
    ET.SubElement(case, "error", type=kind, message=_junit.printable(message))


def not_measured_as_junit(scenario: str, message: str) -> str:
    """Return a document with the one error that nothing could be measured: neither a failure nor a pass."""
    suite = _junit.suite(scenario, {})
    _comparable(suite, scenario, "not-measured", message)
    return _junit.text_of(suite)


def github_annotations(decision: Decision) -> list[str]:
    """Return workflow commands for what has regressed: at most five, as GitHub shows no more than ten of a step."""
    bad = [change for change in decision.gated if change.verdict == "regressed" and not change.accepted]
    return [
        f"::error title={_escaped(f'{change.metric} of {change.runtime} regressed', in_property=True)}::"
        f"{_escaped(f'{words.amount(change)} {change.reason}')}"
        for change in bad[:_MAX_ANNOTATIONS]
    ]


def _escaped(text: str, *, in_property: bool = False) -> str:
    """Source: actions/toolkit, packages/core/src/command.ts, escapeData and escapeProperty."""
    escapes = {"%": "%25", "\r": "%0D", "\n": "%0A"} | ({":": "%3A", ",": "%2C"} if in_property else {})
    return "".join(escapes.get(letter, letter) for letter in text)

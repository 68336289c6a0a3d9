"""The measured table for a paper: LaTeX with booktabs, nothing else needed."""

from __future__ import annotations

from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report import _tables as tables

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "×": r"$\times$",
    "µ": r"$\mu$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


class LatexRenderer:
    name = "latex"
    suffix = ".tex"
    doc = "a LaTeX table (booktabs), for papers"

    def render(self, report: Report) -> str:
        head = [
            "metric",
            tables.arm_word(report),
            "$n$",
            "median",
            r"95\,\% interval",
            f"vs {escaped(report.run.control)}",
        ]
        body, last = [], ""
        for row in tables.rows(report, without=(tables.MARKER,)):
            name = f"{row.metric} {row.arrow}".rstrip()
            if last and name != last:
                body.append(r"\addlinespace")
            cells = ["" if name == last else name, row.runtime, row.n, row.median, row.interval, row.effect]
            body.append(" & ".join(escaped(cell) for cell in cells) + r" \\")
            last = name
        return "\n".join(
            [
                rf"% {report.run.run_id}: needs \usepackage{{booktabs}}",
                r"\begin{table}",
                r"\centering\small",
                rf"\caption{{{escaped(tables.headline(report))}}}",
                r"\begin{tabular}{llrrll}",
                r"\toprule",
                " & ".join(head) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                rf"\par\smallskip\footnotesize {escaped(tables.host_line(report))}; {escaped(tables.counts(report))}",
                r"\end{table}",
                "",
            ]
        )


def escaped(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


PLUGIN: Renderer = LatexRenderer()

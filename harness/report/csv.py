"""The report as a tidy table: one line a metric and runtime, base units, an empty field where there is no value."""

from __future__ import annotations

import csv
import io

from harness.interfaces import Renderer
from harness.model.report import Cell, Report

COLUMNS = (
    "run_id", "scenario", "metric", "runtime", "accelerator", "unit", "exact", "n", "median", "lo", "hi", "minimum",
    "maximum", "effect_kind", "effect", "effect_lo", "effect_hi", "effect_n", "effect_wording", "absent",
)  # fmt: skip


class CsvRenderer:
    name = "csv"
    suffix = ".csv"
    doc = "one line a metric and runtime, base units, for spreadsheets"

    def render(self, report: Report) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for cell in report.cells:
            writer.writerow(_line(report, cell))
        return text.getvalue()


def _line(report: Report, cell: Cell) -> list[object]:
    effect = cell.effect
    compared = (effect.kind, effect.value, effect.lo, effect.hi, effect.n, effect.wording) if effect else (None,) * 6
    return [
        report.run.run_id, report.run.scenario, cell.metric, cell.runtime, report.accelerators.get(cell.runtime),
        cell.unit, int(cell.exact), cell.n, cell.median, cell.lo, cell.hi, cell.minimum, cell.maximum, *compared,
        "; ".join(cell.absent),
    ]  # fmt: skip


PLUGIN: Renderer = CsvRenderer()

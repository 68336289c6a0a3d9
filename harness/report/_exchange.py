"""What the exchange formats have in common: which numbers of a report leave it, under stable names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.model.report import Cell, Report

_UNITS = {"ns": ("ms", 1e-6), "bytes": ("MiB", 1 / 2**20), "bool": ("", 1.0), "count": ("", 1.0), "ratio": ("x", 1.0)}


@dataclass(frozen=True, slots=True)
class Number:
    """One number for another tool: in ms, MiB or as a ratio. `better` is lower, higher or neither."""

    metric: str
    runtime: str
    unit: str
    value: float
    lo: float | None
    hi: float | None
    n: int
    better: str
    relative: bool = False


def numbers(report: Report) -> Iterator[Number]:
    """Yield the median of every metric and runtime, and after it its ratio to the control where there is one."""
    for cell in report.cells:
        if cell.median is None:
            continue
        unit, factor = _UNITS.get(cell.unit, (cell.unit, 1.0))
        lo, hi = (None if bound is None else bound * factor for bound in (cell.lo, cell.hi))
        better = report.run.metrics.get(cell.metric, {}).get("better", "neither")
        yield Number(cell.metric, cell.runtime, unit, cell.median * factor, lo, hi, cell.n, better)
        yield from _ratio(cell, better)


def _ratio(cell: Cell, better: str) -> Iterator[Number]:
    effect = cell.effect
    if effect is not None and effect.kind == "ratio":
        yield Number(
            cell.metric, cell.runtime, "x", effect.value, effect.lo, effect.hi, effect.n, better, relative=True
        )

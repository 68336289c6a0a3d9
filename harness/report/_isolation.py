"""Isolation as every format shows it: two tables, one of what the workload reaches, one of what stands in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.analysis.isolation import OWN_KERNEL, PREFIX, Side, boundaries, headlines, sides, study_lines
from harness.model.report import Report

BOUNDARY = "isolation.boundary."
_RATIOS = {"isolation.host_counter_bracketing"}
_BOOLEANS = {
    "kernel.shared", "no_new_privs", "host_processes.visible", "host_root", "lsm",
    "boundary.root", "boundary.no_new_privs", "boundary.lsm",
}  # fmt: skip
_LEFT_OUT = "isolation.namespace."
"""Each kind of namespace by itself: their count names them."""


def cell_text(side: Side, metric: str) -> str:
    """Return one value for people: with what it is out of, and a star where it acts on a kernel of its own."""
    value = side.values.get(metric)
    if value is None:
        return "-"
    labels = side.labels.get(metric, {})
    star = "*" if labels.get("acts_on") == OWN_KERNEL else ""
    if metric.removeprefix(PREFIX) in _BOOLEANS:
        return f"{'yes' if value else 'no'}{star}"
    if metric in _RATIOS:
        return f"{value:.0%}{star}"
    whole = labels.get("of")
    return f"{value:g}{f'/{whole}' if whole else ''}{star}"


def metrics_of(all_sides: Sequence[Side], *, boundary: bool) -> list[str]:
    """Return the rows of one of the two tables, as the probes list them."""
    names = dict.fromkeys(metric for side in all_sides for metric in side.values)
    return [m for m in names if m.startswith(BOUNDARY) == boundary and not m.startswith(_LEFT_OUT)]


def rows(all_sides: Sequence[Side], *, boundary: bool) -> list[list[str]]:
    """Return one of the two tables without its head: name, then one cell a runtime."""
    prefix = BOUNDARY if boundary else PREFIX
    return [
        [metric.removeprefix(prefix), *(cell_text(side, metric) for side in all_sides)]
        for metric in metrics_of(all_sides, boundary=boundary)
    ]


def property_table(all_sides: Sequence[Side], names: Mapping[str, str]) -> list[str]:
    """Return what the workload reaches, as lines of aligned text; none where nothing was measured."""
    return _aligned("the workload reaches", all_sides, names, boundary=False)


def boundary_table(all_sides: Sequence[Side], names: Mapping[str, str]) -> list[str]:
    """Return what the process in between is and may do, as lines of aligned text."""
    return _aligned("the process in between", all_sides, names, boundary=True)


def _aligned(title: str, all_sides: Sequence[Side], names: Mapping[str, str], *, boundary: bool) -> list[str]:
    found = rows(all_sides, boundary=boundary)
    if not found:
        return []
    lines = [[title, *(names.get(side.runtime, side.runtime) for side in all_sides)], *found]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]


def report_lines(report: Report) -> tuple[str, ...]:
    """Return the headlines on isolation of a run; empty where its surface was not measured."""
    found = sides(report)
    if not any("isolation.syscalls.reachable" in side.values for side in found):
        return study_lines(report)
    return headlines(found, boundaries(report))

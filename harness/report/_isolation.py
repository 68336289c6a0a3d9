"""Isolation as every format shows it: two tables, one of what the workload reaches, one of what stands in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.analysis.isolation import OWN_KERNEL, PREFIX, Side, headlines, sides
from harness.model.report import Report

if TYPE_CHECKING:
    from rich.table import Table

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


def property_table(all_sides: Sequence[Side], names: Mapping[str, str]) -> Table | None:
    """Return what the workload reaches; None where nothing was measured."""
    return _table("what the workload reaches", all_sides, names, boundary=False)


def boundary_table(all_sides: Sequence[Side], names: Mapping[str, str]) -> Table | None:
    """Return what the process in between is and may do; None where nothing was measured."""
    return _table("the process between it and the host", all_sides, names, boundary=True)


def _table(title: str, all_sides: Sequence[Side], names: Mapping[str, str], *, boundary: bool) -> Table | None:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    lines = rows(all_sides, boundary=boundary)
    if not lines:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(title)
    for side in all_sides:
        table.add_column(names.get(side.runtime, side.runtime), justify="right")
    for line in lines:
        table.add_row(*line)
    return table


def report_lines(report: Report) -> tuple[str, ...]:
    """Return the headlines on isolation of a run; empty where its surface was not measured."""
    found = sides(report)
    if not any("isolation.syscalls.reachable" in side.values for side in found):
        return ()
    boundaries = {name: str(report.run.arms.get(name, {}).get("boundary", "")) for name in report.run.runtimes}
    return headlines(found, boundaries)

"""The table of a run of many instances: what they took together at each number of them, medians over the trials."""

from __future__ import annotations

from harness.analysis import density
from harness.model.metrics import Metric, Unit
from harness.model.report import Report
from harness.report import _tables as tables

COLUMNS: tuple[tuple[Metric, str], ...] = (
    (density.OWN, "own"),
    (density.PSS, "PSS"),
    (density.CGROUP, "cgroup"),
    (density.HOST, "whole host"),
    (density.UNEXPLAINED, "unexplained"),
    (density.MERGED, "merged"),
    (density.CPU, "CPU"),
    (density.READY, "last one ready"),
)
NOTE = "medians over trials of what all take together: memory, cores when idle; how long the last one took to be ready"


TITLE = "By number of instances"
_BAR_COLUMNS = 40


def matrix(report: Report) -> list[list[str]]:
    """Return the table, its head first; columns that nobody has are left out. Empty where no trial had levels."""
    found = {
        (step.runtime, step.n, metric.name): step.estimate.value
        for metric, _ in COLUMNS
        for step in density.steps(report.records, metric.name)
    }
    columns = [
        (metric, head) for metric, head in COLUMNS if any(found.get(key) for key in found if key[2] == metric.name)
    ]
    lines = [
        [
            f"{n} x {tables.runtime_label(report, runtime)}",
            *(_cell(found.get((runtime, n, metric.name)), metric) for metric, _ in columns),
        ]
        for runtime in report.run.runtimes
        for n in sorted({n for name, n, _ in found if name == runtime})
    ]
    return [["instances", *(head for _, head in columns)], *lines] if lines else []


def _cell(value: float | None, metric: Metric) -> str:
    if value is None:
        return tables.NONE
    if metric.unit is Unit.RATIO:
        return f"{value:.4f}"
    return tables.format_value(value, metric.unit.value)


def bars(report: Report) -> list[str]:
    """Return a picture in letters: a bar for what is each runtime's own at each number of instances, from 0.

    It is of PSS where no cgroup tells what is an instance's own. Empty where no trial had levels.
    """
    steps = density.steps(report.records, density.OWN.name) or density.steps(report.records, density.PSS.name)
    most = max((step.estimate.value for step in steps), default=0)
    if most <= 0:
        return []
    order = {name: place for place, name in enumerate(report.run.runtimes)}
    lines = [
        (f"{step.n} x {tables.runtime_label(report, step.runtime)}", step.estimate.value)
        for step in sorted(steps, key=lambda step: (order[step.runtime], step.n))
    ]
    width = max(len(name) for name, _ in lines)
    return [
        f"{name.rjust(width)} |{'#' * round(value / most * _BAR_COLUMNS)} {tables.format_value(value, 'bytes')}"
        for name, value in lines
    ]


def endings(report: Report) -> list[str]:
    """Return why trials ended before their last number, one line a runtime and reason."""
    found: dict[tuple[str, str], int] = {}
    for record in report.records:
        reached = record.metrics.get(density.INSTANCES.name)
        if reached is not None and reached.labels.get("stopped by") != density.PLANNED:
            why = f"{reached.value} at most: {reached.labels.get('stopped by')}"
            found[record.spec.runtime, why] = found.get((record.spec.runtime, why), 0) + 1
    return [f"{tables.runtime_label(report, name)}: {why}" for name, why in found]

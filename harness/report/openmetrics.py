"""OpenMetrics text, for Prometheus' node exporter and GitLab's metrics report.

Source: OpenMetrics 1.0, "Text format". GitLab compares values as texts, so they have three significant digits.
"""

from __future__ import annotations

from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report._exchange import Number, numbers

_FAMILIES = {
    "ms": ("harness_median_seconds", 1e-3, "median of a duration"),
    "MiB": ("harness_median_bytes", 2.0**20, "median of a size"),
    "": ("harness_median", 1.0, "median of a count or property"),
    "x": ("harness_ratio_to_control", 1.0, "paired ratio to the control"),
}


class OpenMetricsRenderer:
    name = "openmetrics"
    suffix = ".metrics.txt"
    doc = "OpenMetrics text, for Prometheus and GitLab"

    def render(self, report: Report) -> str:
        groups: dict[str, list[Number]] = {}
        for number in numbers(report):
            groups.setdefault(number.unit if number.unit in _FAMILIES else "", []).append(number)
        lines = []
        for unit, found in groups.items():
            name, factor, doc = _FAMILIES[unit]
            lines += [f"# TYPE {name} gauge", f"# HELP {name} {doc}"]
            lines += [f"{name}{{{_labels(report, number)}}} {number.value * factor:.3g}" for number in found]
        return "\n".join([*lines, "# EOF", ""])


def _labels(report: Report, number: Number) -> str:
    labels = {"scenario": report.run.scenario, "runtime": number.runtime, "metric": number.metric}
    if accelerator := report.accelerators.get(number.runtime):
        labels["accelerator"] = accelerator
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


PLUGIN: Renderer = OpenMetricsRenderer()

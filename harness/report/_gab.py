"""JSON for github-action-benchmark: one file for each direction, as that tool knows one direction a file.

Source: benchmark-action/github-action-benchmark, README, "customBiggerIsBetter and customSmallerIsBetter".
"""

from __future__ import annotations

import json

from harness.model.report import Report
from harness.report._exchange import Number, numbers
from harness.report._tables import host_line


def render(report: Report, better: str) -> str:
    """Return a list of {name, unit, value, range, extra}; names are unique and stay the same from run to run."""
    found = [_entry(report, number) for number in numbers(report) if number.better == better]
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _entry(report: Report, number: Number) -> dict[str, object]:
    name = f"{report.run.scenario}/{number.runtime} {number.metric}"
    if number.relative:
        name += f" vs {report.run.control}"
    entry: dict[str, object] = {"name": name, "unit": number.unit, "value": float(f"{number.value:.6g}")}
    if number.lo is not None and number.hi is not None:
        entry["range"] = f"± {(number.hi - number.lo) / 2:.3g}"
    accelerator = report.accelerators.get(number.runtime)
    facts = [f"n={number.n}", *([f"accelerator {accelerator}"] if accelerator else []), f"host {host_line(report)}"]
    return {**entry, "extra": "\n".join(facts)}

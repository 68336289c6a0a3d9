"""Bencher Metric Format: benchmark -> measure -> value with bounds.

Source: bencher.dev, Bencher Metric Format; a measure's name has at most 64 characters, and `latency` means ns there, so
measures have names of their own that end with their unit.
"""

from __future__ import annotations

import json
import re

from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report._exchange import Number, numbers

_MEASURE_CHARACTERS = 64


class BencherRenderer:
    name = "bmf"
    suffix = ".bmf.json"
    doc = "Bencher Metric Format, for bencher run --adapter json"

    def render(self, report: Report) -> str:
        found: dict[str, dict[str, dict[str, float]]] = {}
        for number in numbers(report):
            values = {"value": number.value, "lower_value": number.lo, "upper_value": number.hi}
            kept = {key: float(f"{value:.6g}") for key, value in values.items() if value is not None}
            found.setdefault(f"{report.run.scenario}/{number.runtime}", {})[_measure(number)] = kept
        return json.dumps(found, indent=1, sort_keys=True) + "\n"


def _measure(number: Number) -> str:
    suffix = "ratio-vs-control" if number.relative else number.unit.lower()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{number.metric} {suffix}".lower()).strip("-")
    return slug[:_MEASURE_CHARACTERS]


PLUGIN: Renderer = BencherRenderer()

"""Metrics of which more is better, for github-action-benchmark (customBiggerIsBetter)."""

from __future__ import annotations

from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report import _gab


class BiggerIsBetterRenderer:
    name = "gab-bigger"
    suffix = ".gab-bigger.json"
    doc = "github-action-benchmark, customBiggerIsBetter"

    def render(self, report: Report) -> str:
        return _gab.render(report, "higher")


PLUGIN: Renderer = BiggerIsBetterRenderer()

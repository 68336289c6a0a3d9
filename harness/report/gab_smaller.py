"""Metrics of which less is better, for github-action-benchmark (customSmallerIsBetter)."""

from __future__ import annotations

from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report import _gab


class SmallerIsBetterRenderer:
    name = "gab-smaller"
    suffix = ".gab-smaller.json"
    doc = "github-action-benchmark, customSmallerIsBetter"

    def render(self, report: Report) -> str:
        return _gab.render(report, "lower")


PLUGIN: Renderer = SmallerIsBetterRenderer()

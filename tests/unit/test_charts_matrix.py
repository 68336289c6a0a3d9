"""The picture of a matrix."""

from __future__ import annotations

from dataclasses import replace

from harness.analysis.summary import analyse
from harness.charts.matrix import matrix_chart
from harness.model.report import Series
from tests.example_run import example_run, example_trials


def test_memory_that_hardly_differs_has_an_axis_that_can_be_read() -> None:
    reports = []
    for number, size in enumerate(("128MiB", "256MiB"), 1):
        matrix = {"series": "a", "number": number, "cells": 2, "cell": {"limits.memory": size}}
        trials = [replace(trial) for trial in example_trials() if trial.spec.runtime == "process"]
        reports.append(analyse(example_run(matrix=matrix), trials))
    figure = matrix_chart(Series(tuple(reports)), ["memory.pss"])
    (axes,) = figure.axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert 2 <= len(axes.get_yticks()) <= 12

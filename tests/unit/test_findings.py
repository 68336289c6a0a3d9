"""What must be said beside a table: a start that was counted took its time for that."""

from __future__ import annotations

import pytest

from harness.analysis.summary import analyse
from tests.example_run import METRICS, example_run, example_trials


@pytest.mark.parametrize(
    ("arms", "metrics", "told"),
    [
        ({"vm": {"icount": True}, "container": {}}, METRICS, True),
        ({"vm": {"icount": False}, "container": {"count": True}}, METRICS, True),
        ({"vm": {}, "container": {"count": False}}, METRICS, False),
        ({"vm": {"icount": True}, "container": {}}, {"boot.instructions": {"unit": "count"}}, False),
    ],
)
def test_times_of_counted_starts_are_called_no_measure(
    arms: dict[str, dict[str, object]], metrics: dict[str, dict[str, str]], told: bool
) -> None:
    report = analyse(example_run(arms=arms, metrics=metrics), example_trials())
    assert any(finding.code == "counted" for finding in report.findings) == told

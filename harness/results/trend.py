"""One series of a scenario's history, judged: what `run.plot.history` and notebooks draw."""

from __future__ import annotations

from pathlib import Path

from harness.analysis import history
from harness.analysis.statistics import EQUIVALENCE_MARGIN
from harness.errors import StoreError, UsageError
from harness.model.history import Judged
from harness.results.history import read

MARGIN = EQUIVALENCE_MARGIN


def judged(scenario: str, runtime: str, metric: str, root: Path, host_class: str = "") -> Judged:
    """Return how one metric of one runtime moved over a scenario's runs on one class of hosts (the only one, if none
    is named).

    Raises: StoreError without a history, or with several; UsageError for what its newest run did not measure.
    """
    files = sorted((root / scenario).glob(f"{host_class or '*'}.jsonl"))
    if len(files) != 1:
        which = "none" if not files else f"of several classes of hosts: {', '.join(path.stem for path in files)}"
        raise StoreError(f"history: {scenario}: {which} in {root}", hint="harness history add RUN")
    one = history.series(read(files[0]), runtime, metric)
    if one is None:
        raise UsageError(f"history: {scenario}: its newest run has no {metric} of {runtime}")
    return history.judge(one, MARGIN)

"""A finished run as pandas frames, for notebooks: `harness.load("latest").wide("startup.ready").plot()`.

The only module that imports pandas. Nothing is left out: failed trials and metrics that were not measured are rows
with NaN as their value and the reason beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UsageError
from harness.model.records import RunRecord, TrialRecord
from harness.results.store import RunDirectory, find_run

COLUMNS = (
    "run_id", "scenario", "trial_id", "runtime", "block", "order", "metric", "value", "unit", "status", "warmup",
    "noisy", "accelerator", "started", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run. `meta` is run.json, `records` the trials as they were written."""

    meta: RunRecord
    records: tuple[TrialRecord, ...]
    path: Path

    def __repr__(self) -> str:
        """Return one line: a notebook shows a run by it."""
        meta = self.meta
        return f"<Run {meta.run_id}: {meta.status}, {len(self.records)} trials of {', '.join(meta.runtimes)}>"

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial and metric, in the order of the trials; values in the base `unit` (ns, bytes)."""
        frame = pd.DataFrame(
            (row for record in self.records for row in _rows(self.meta, record)), columns=list(COLUMNS)
        )
        frame["value"] = frame["value"].astype("float64")
        frame["runtime"] = pd.Categorical(frame["runtime"], categories=list(self.meta.runtimes))
        frame["metric"] = pd.Categorical(frame["metric"], categories=list(dict.fromkeys(frame["metric"])))
        frame["started"] = pd.to_datetime(frame["started"], utc=True, format="ISO8601")
        return frame

    def counted(self) -> pd.DataFrame:
        """Return the rows that statistics are made of: measured, of a trial that succeeded, warm-up excluded."""
        trials = self.trials
        return trials[(trials["status"] == "ok") & ~trials["warmup"] & trials["value"].notna()]

    def wide(self, metric: str) -> pd.DataFrame:
        """Return one metric, one row a counted block and one column a runtime; NaN where it was not measured.

        Raises: UsageError for a metric that this run does not know.
        """
        known = list(self.trials["metric"].cat.categories)
        if metric not in known:
            raise UsageError(f"metric: {metric}: not in this run", hint=f"known: {', '.join(known)}")
        trials = self.trials
        rows = trials[(trials["metric"] == metric) & ~trials["warmup"]]
        values = rows.assign(value=rows["value"].where(rows["status"] == "ok"))
        return values.pivot_table(
            index="block", columns="runtime", values="value", aggfunc="first", observed=False, dropna=False
        ).reindex(index=sorted(rows["block"].unique()), columns=list(self.meta.runtimes))

    def summary(self) -> pd.DataFrame:
        """Return n, median, quartiles, minimum and maximum of every metric and runtime.

        Intervals and comparisons with the control are in `harness report RUN --format csv`.
        """
        groups = self.counted().groupby(["metric", "runtime"], observed=True)["value"]
        return groups.agg(
            n="count",
            median="median",
            q1=lambda values: values.quantile(0.25),
            q3=lambda values: values.quantile(0.75),
            minimum="min",
            maximum="max",
        ).join(self.trials.groupby(["metric", "runtime"], observed=True)["unit"].first())


def _rows(run: RunRecord, record: TrialRecord) -> Iterator[Mapping[str, Any]]:
    spec = record.spec
    common = {
        "run_id": run.run_id,
        "scenario": run.scenario,
        "trial_id": spec.trial_id,
        "runtime": spec.runtime,
        "block": spec.block,
        "order": spec.order,
        "status": record.status,
        "warmup": spec.warmup,
        "noisy": bool(record.noise.flags),
        "accelerator": record.accelerator,
        "started": record.started,
    }
    for metric in dict.fromkeys([*run.metrics, *record.metrics, *record.absent]):
        unit = run.metrics.get(metric, {}).get("unit")
        if metric in record.metrics:
            measured = record.metrics[metric]
            yield {**common, "metric": metric, "value": measured.value, "unit": measured.unit, "reason": None}
        else:
            reason = record.absent.get(metric) or record.error or "not recorded"
            yield {**common, "metric": metric, "value": None, "unit": unit, "reason": reason}


def load(run: str | Path, results: str | Path = "results") -> Run:
    """Return a run: its directory, or as on the command line its id, a part of it, or `latest` in `results`.

    Raises: StoreError when there is none, more than one fits, or it cannot be read.
    """
    named = isinstance(run, str) and "/" not in run
    directory = RunDirectory.open(find_run(Path(results), str(run)) if named else Path(run))
    return Run(directory.run(), directory.trials(), directory.path)

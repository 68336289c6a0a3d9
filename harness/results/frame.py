"""A finished run as pandas frames, for notebooks: `harness.load("latest").wide("startup.ready").plot()`.

The only module that imports pandas. Nothing is left out: failed trials and metrics that were not measured are rows
with NaN as their value and the reason beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.density import rows as density_rows
from harness.analysis.significance import holm, signed_rank_p
from harness.analysis.statistics import paired_difference, paired_ratio
from harness.errors import StoreError, UsageError
from harness.model.history import Entry
from harness.model.matrix import label
from harness.model.records import RunRecord, TrialRecord
from harness.results.history import read as read_history
from harness.results.history import uncollected
from harness.results.plots import Plots
from harness.results.store import RunDirectory, find_run, list_runs

COLUMNS = (
    "run_id", "scenario", "cell", "trial_id", "runtime", "block", "order", "metric", "value", "unit", "status",
    "warmup", "noisy", "accelerator", "started", "reason",
)  # fmt: skip

HISTORY = (
    "run_id", "started", "commit", "host_class", "runtime", "metric", "unit", "median", "lo", "hi", "effect",
    "effect_lo", "effect_hi", "n", "noisy",
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

    def compare(self, baseline: str | None = None) -> pd.DataFrame:
        """Return every metric of every runtime against `baseline` (the run's control), paired by block.

        Columns: kind (ratio, or difference where a value is not above 0), effect with its exact 95 % interval lo and
        hi (NaN below 6 blocks), n, p of the signed-rank test and p_holm, corrected for the rows of this frame.
        Properties (assume: exact) have no statistics and are not in it. Raises: UsageError for an unknown runtime.
        """
        base = baseline or self.meta.control
        if base not in self.meta.runtimes:
            raise UsageError(f"baseline: {base}: not in this run", hint=f"known: {', '.join(self.meta.runtimes)}")
        noisy = [name for name, text in self.meta.metrics.items() if text.get("assume") != "exact"]
        rows = [row for metric in noisy for row in _contrasts(self, metric, base)]
        frame = pd.DataFrame(rows, columns=["metric", "runtime", "kind", "effect", "lo", "hi", "n", "p"])
        adjusted = holm({str(place): p for place, p in enumerate(frame["p"])})
        frame["p_holm"] = [adjusted[str(place)] for place in range(len(frame))]
        return frame.set_index(["metric", "runtime"])

    @cached_property
    def density(self) -> pd.DataFrame:
        """What more and more instances took together: one row a trial, number of instances `n` and metric.

        Columns: runtime, block, warmup, status, accelerator, n, metric, value, unit. Empty unless the scenario has
        `density:`.
        """
        columns = ["runtime", "block", "warmup", "status", "accelerator", "n", "metric", "value", "unit"]
        return pd.DataFrame(density_rows(self.records), columns=columns)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """One row a trial that gave no complete result. `ending`: what became of the instance, None where unknown.

        The endings are those of `harness.model.records.ENDINGS`.
        """
        rows = [
            (record.spec.trial_id, record.spec.runtime, record.spec.block, record.status, record.ending, record.error)
            for record in self.records
            if record.status != "ok"
        ]
        return pd.DataFrame(rows, columns=["trial_id", "runtime", "block", "status", "ending", "error"])

    @cached_property
    def noise(self) -> pd.DataFrame:
        """One row a trial: how disturbed the host was, NaN where it does not tell; `flags` joined by commas."""
        rows = [
            (record.spec.trial_id, record.spec.runtime, record.spec.block, record.noise.steal_ratio,
             record.noise.psi_cpu_some_ratio, ",".join(record.noise.flags))
            for record in self.records
        ]  # fmt: skip
        columns = ["trial_id", "runtime", "block", "steal_ratio", "psi_cpu_some_ratio", "flags"]
        return pd.DataFrame(rows, columns=columns).astype({"steal_ratio": "float64", "psi_cpu_some_ratio": "float64"})

    def samples(self, trial_id: str) -> pd.DataFrame:
        """Return what was sampled while one trial ran. Raises: UsageError where nothing was."""
        path = self.path / "samples" / f"{trial_id}.csv.gz"
        if not path.is_file():
            raise UsageError(
                f"samples: {trial_id}: this run has none of it", hint=f"{path.parent} holds those there are"
            )
        return pd.read_csv(path)

    @property
    def plot(self) -> Plots:
        """Charts: `run.plot.paired("startup.ready", ax=axes)`."""
        return Plots(self.meta, self.records)


def _contrasts(run: Run, metric: str, base: str) -> Iterator[tuple[Any, ...]]:
    wide = run.wide(metric)
    for runtime in (name for name in run.meta.runtimes if name != base):
        pairs = wide[[base, runtime]].dropna().to_numpy()
        if not len(pairs):
            continue
        if (pairs > 0).all():
            kind, estimate = "ratio", paired_ratio([float(new / old) for old, new in pairs])
            apart = [float(new) - float(old) for old, new in np.log(pairs)]
        else:
            apart = [float(new - old) for old, new in pairs]
            kind, estimate = "difference", paired_difference(apart)
        yield metric, runtime, kind, estimate.value, estimate.lo, estimate.hi, estimate.n, signed_rank_p(apart)


def _rows(run: RunRecord, record: TrialRecord) -> Iterator[Mapping[str, Any]]:
    spec = record.spec
    common = {
        "run_id": run.run_id,
        "scenario": run.scenario,
        "cell": label(run.matrix["cell"]) if run.matrix else "",
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


def load_many(pattern: str = "*", results: str | Path = "results") -> pd.DataFrame:
    """Return the trials of all runs in `results` whose id matches a pattern (`*-boot-*`), as one frame like `trials`.

    Raises: StoreError when none matches, or one cannot be read.
    """
    found = [path for path in list_runs(Path(results)) if fnmatchcase(path.name, pattern)]
    if not found:
        raise StoreError(f"{pattern}: no such run in {results}", hint="harness list runs")
    return pd.concat([load(path).trials for path in found], ignore_index=True)


def history(scenario: str, root: str | Path = "history") -> pd.DataFrame:
    """Return a scenario's history: one row a run, runtime and metric, oldest first; one `host_class` a file.

    Columns: run_id, started (UTC), commit, host_class, runtime, metric, unit, median, lo, hi, effect, effect_lo,
    effect_hi, n, noisy. Raises: StoreError when there is none.
    """
    files = sorted((Path(root) / scenario).glob("*.jsonl"))
    if not files:
        raise StoreError(f"history: {scenario}: none in {root}", hint="harness history add RUN")
    parts = _Parts()
    with uncollected():
        for path in files:
            for entry in read_history(path):
                parts.add(entry, path.stem)
    return parts.frame()


class _Parts:
    """A history on its way to a frame: numbers as arrays, texts as codes, so that a million rows take a second."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._codes: dict[str, list[Any]] = {name: [] for name in ("metric", "unit")}
        self._of_run: dict[str, list[Any]] = {
            name: [] for name in ("run_id", "started", "commit", "host_class", "runtime", "noisy")
        }
        self._counts: list[int] = []
        self._known: dict[str, dict[str, int]] = {"metric": {}, "unit": {}}

    def add(self, entry: Entry, host_class: str) -> None:
        for runtime, cells in entry.cells.items():
            if not cells:
                continue
            self._values.append(np.array(list(cells.values()), dtype="float64"))
            units = [entry.definitions.get(metric, ("",))[0] for metric in cells]
            for name, texts in (("metric", cells), ("unit", units)):
                known = self._known[name]
                self._codes[name].append([known.setdefault(text, len(known)) for text in texts])
            self._counts.append(len(cells))
            of_run = (entry.run_id, entry.started, entry.commit, host_class, runtime, entry.noisy)
            for name, value in zip(self._of_run, of_run, strict=True):
                self._of_run[name].append(value)

    def frame(self) -> pd.DataFrame:
        columns: dict[str, Any] = {}
        for name, per_run in self._of_run.items():
            column = pd.Series(pd.to_datetime(per_run, utc=True, format="ISO8601") if name == "started" else per_run)
            category = column if name in {"started", "noisy"} else column.astype("category")
            columns[name] = category.repeat(self._counts).reset_index(drop=True)
        for name, codes in self._codes.items():
            flat: Any = np.concatenate([np.asarray(part) for part in codes]) if codes else []
            columns[name] = pd.Categorical.from_codes(flat, categories=list(self._known[name]))
        values = np.concatenate(self._values) if self._values else np.empty((0, 7))
        for place, name in enumerate(("median", "lo", "hi", "effect", "effect_lo", "effect_hi")):
            columns[name] = values[:, place]
        columns["n"] = values[:, 6].astype("int64")
        return pd.DataFrame(columns)[list(HISTORY)]

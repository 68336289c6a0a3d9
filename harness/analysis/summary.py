"""From the records of one run to its report: pure, so that `harness report` can be redone at any time.

Counted are succeeded trials outside the warm-up. Nothing is dropped: outliers and noisy trials are counted and told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.claims import claims
from harness.analysis.findings import KILLED, findings, missing
from harness.analysis.identity import identity
from harness.analysis.statistics import (
    EQUIVALENCE_MARGIN,
    Estimate,
    median,
    median_estimate,
    paired_difference,
    paired_ratio,
)
from harness.model.metrics import Assume
from harness.model.records import MetricValue, RunRecord, TrialRecord
from harness.model.report import Cell, Effect, Failure, Finding, Report

HEADLINES = ("memory.pss",)
"""These come first in every table, after the one that people ask for first (`RunRecord.headline`)."""
_WORDS = {
    "ns": ("slower", "faster"),
    "bytes": ("more", "less"),
    "bytes/s": ("faster", "slower"),
    "1/s": ("faster", "slower"),
}


@dataclass(frozen=True, slots=True)
class _Column:
    """One metric of one runtime: its values by block, and why others are missing."""

    runtime: str
    values: Mapping[int, MetricValue]
    absent: tuple[str, ...]


def counted(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that the statistics are made of, in the order in which they ran."""
    return [trial for trial in trials if trial.status == "ok" and not trial.spec.warmup]


def analyse(run: RunRecord, trials: Sequence[TrialRecord], notes: Sequence[Finding] = ()) -> Report:
    """Return the report of a run, complete or not. `notes` are findings from elsewhere, such as a torn journal."""
    kept = counted(trials)
    cells = tuple(
        cell for metric in metric_names(run, kept) for cell in _cells(run, metric, [*_columns(run, metric, kept)])
    )
    same = identity(run, trials)
    accelerators = _accelerators(run, trials)
    return Report(
        run=run,
        cells=cells,
        identity=same,
        failures=tuple(
            Failure(
                trial.spec.trial_id,
                trial.spec.runtime,
                trial.status,
                trial.error or "no reason recorded",
                trial.ending or "",
            )
            for trial in trials
            if trial.status != "ok"
        ),
        findings=(*notes, *findings(run, trials, cells, accelerators, killed=any(n.code == KILLED for n in notes))),
        missing=missing(cells),
        claims=claims(run, kept, cells, same),
        blocks=len({trial.spec.block for trial in trials if not trial.spec.warmup}),
        warmup_blocks=len({trial.spec.block for trial in trials if trial.spec.warmup}),
        trials=len(trials),
        accelerators=accelerators,
        records=tuple(trials),
    )


def metric_names(run: RunRecord, trials: Sequence[TrialRecord]) -> list[str]:
    """Return all metrics of a run: the headlines, then as its probes declare them, then any without a definition."""
    stored = (name for trial in trials for name in (*trial.metrics, *trial.absent))
    names = list(dict.fromkeys([*run.metrics, *stored]))
    first = (run.headline, *HEADLINES)
    return [name for name in first if name in names] + [name for name in names if name not in first]


def _accelerators(run: RunRecord, trials: Sequence[TrialRecord]) -> dict[str, str]:
    """Return what each VM really ran on; both names where trials differ."""
    found: dict[str, dict[str, None]] = {}
    for trial in trials:
        if trial.accelerator:
            found.setdefault(trial.spec.runtime, {})[trial.accelerator] = None
    return {runtime: "+".join(found[runtime]) for runtime in run.runtimes if runtime in found}


def _columns(run: RunRecord, metric: str, trials: Sequence[TrialRecord]) -> list[_Column]:
    columns = []
    for runtime in run.runtimes:
        own = [trial for trial in trials if trial.spec.runtime == runtime]
        values = {trial.spec.block: trial.metrics[metric] for trial in own if metric in trial.metrics}
        missing = [trial.absent.get(metric, "not recorded") for trial in own if metric not in trial.metrics]
        reasons = tuple(dict.fromkeys(missing)) if own else ("no trial of this runtime succeeded",)
        columns.append(_Column(runtime, values, reasons))
    return columns


def _cells(run: RunRecord, metric: str, columns: Sequence[_Column]) -> list[Cell]:
    """Return one metric of every runtime."""
    definition = run.metrics.get(metric, {})
    units = [value.unit for column in columns for value in column.values.values()]
    unit = definition.get("unit") or next(iter(units), "")
    exact = definition.get("assume") == Assume.EXACT.value
    control = next((column for column in columns if column.runtime == run.control), None)
    return [_cell(metric, column, unit, control, exact=exact) for column in columns]


def _cell(metric: str, column: _Column, unit: str, control: _Column | None, *, exact: bool) -> Cell:
    values = [value.value for value in column.values.values()]
    summary = median_estimate(values) if values and not exact else None
    return Cell(
        metric=metric,
        runtime=column.runtime,
        unit=unit,
        n=len(values),
        median=median(values) if values else None,
        lo=summary.lo if summary else None,
        hi=summary.hi if summary else None,
        minimum=min(values) if values else None,
        maximum=max(values) if values else None,
        effect=None if control is None or control is column else _effect(column, control, unit, exact=exact),
        absent=column.absent,
        labels=_common_labels(list(column.values.values())),
        exact=exact,
    )


def _common_labels(values: Sequence[MetricValue]) -> dict[str, str]:
    if not values:
        return {}
    return {
        key: text for key, text in values[0].labels.items() if all(value.labels.get(key) == text for value in values)
    }


def _effect(column: _Column, control: _Column, unit: str, *, exact: bool) -> Effect | None:
    """Compare block by block; None where no block has both values."""
    blocks = sorted(column.values.keys() & control.values.keys())
    if not blocks:
        return None
    pairs = [(column.values[block].value, control.values[block].value) for block in blocks]
    if exact:
        return _exact_effect(pairs)
    if all(own > 0 and other > 0 for own, other in pairs):
        ratio = paired_ratio([own / other for own, other in pairs])
        return Effect("ratio", ratio.value, ratio.lo, ratio.hi, ratio.n, ratio_wording(ratio, unit))
    difference = paired_difference([own - other for own, other in pairs])
    wording = _wording(difference, 0.0, unit)
    return Effect("difference", difference.value, difference.lo, difference.hi, difference.n, wording)


def _exact_effect(pairs: Sequence[tuple[float, float]]) -> Effect:
    gaps = [own - other for own, other in pairs]
    wording = "same" if not any(gaps) else "differs"
    return Effect("exact", median(gaps), None, None, len(pairs), wording)


def ratio_wording(ratio: Estimate, unit: str) -> str:
    """Return what a ratio to the control says in one word: slower, more, same, undecided, too few blocks."""
    if ratio.lo is not None and ratio.hi is not None:
        limit = 1 + EQUIVALENCE_MARGIN
        if 1 / limit < ratio.lo and ratio.hi < limit:
            return "same"
    return _wording(ratio, 1.0, unit)


def _wording(estimate: Estimate, neutral: float, unit: str) -> str:
    if estimate.lo is None or estimate.hi is None:
        return "too few blocks"
    if estimate.lo == estimate.hi == neutral:
        return "same"
    above, below = _WORDS.get(unit, ("higher", "lower"))
    if estimate.lo > neutral:
        return above
    return below if estimate.hi < neutral else "undecided"

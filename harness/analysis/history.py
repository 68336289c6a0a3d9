"""From runs to a history, and from a history to verdicts: whether a metric stepped up and stayed there. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from harness.analysis import changepoint
from harness.analysis.statistics import median
from harness.model.history import Break, Entry, Judged, Number, Series, Step
from harness.model.report import Report


def entry_of(report: Report, *, commit: str = "", noisy: int = 0) -> Entry:
    """Return a run's line of history from its report; `noisy` is how many of its trials were disturbed."""
    run = report.run
    cells: dict[str, dict[str, Sequence[Number]]] = {runtime: {} for runtime in run.runtimes}
    differences = set[str]()
    for cell in report.cells:
        if cell.median is None:
            continue
        effect = cell.effect
        against: tuple[Number, Number, Number] = (None, None, None)
        if effect is not None and effect.kind in {"ratio", "difference"}:
            against = (effect.value, effect.lo, effect.hi)
            if effect.kind == "difference":
                differences.add(cell.metric)
        numbers = (cell.median, cell.lo, cell.hi, *against)
        cells[cell.runtime][cell.metric] = (*(_rounded(number) for number in numbers), cell.n)
    return Entry(
        run_id=run.run_id,
        started=run.started,
        commit=commit,
        scenario_hash=run.scenario_hash,
        image=str(run.image.get("root_digest", "")),
        harness=str(run.tools.get("harness", "")),
        control=run.control,
        accelerators=dict(report.accelerators),
        noisy=noisy,
        trials=report.trials,
        definitions={name: _definition(text) for name, text in run.metrics.items()},
        cells=cells,
        differences=tuple(sorted(differences)),
    )


def _rounded(number: Number) -> Number:
    return number if number is None or isinstance(number, int) else float(f"{number:.6g}")


def _definition(text: Mapping[str, str]) -> tuple[str, ...]:
    doc = hashlib.sha256(text.get("doc", "").encode()).hexdigest()[:8]
    return text.get("unit", ""), text.get("better", ""), text.get("assume", ""), doc


def series(entries: Sequence[Entry], runtime: str, metric: str) -> Series | None:
    """Return a metric's values over all runs that have it: the ratio to the control, where there is one; else None."""
    having = [(entry, point) for entry in entries if (point := entry.point(runtime, metric)) is not None]
    if not having:
        return None
    unit, better = having[-1][0].definitions.get(metric, ("", "", "", ""))[:2]
    relative = all(point.effect is not None and metric not in entry.differences for entry, point in having)
    kept, points = zip(*having, strict=True)
    return Series(runtime, metric, unit, better, relative, kept, points)


def breaks(found: Series) -> list[Break]:
    """Return where a series starts anew: another scenario, image, control, harness major or meaning of the metric."""
    marks = []
    for index in range(1, len(found.entries)):
        before, after = found.entries[index - 1], found.entries[index]
        reasons = [name for name, same in _same(before, after, found).items() if not same]
        if reasons:
            marks.append(Break(index, ", ".join(reasons)))
    return marks


def _same(before: Entry, after: Entry, found: Series) -> dict[str, bool]:
    metric, runtime = found.metric, found.runtime
    return {
        "scenario": before.scenario_hash == after.scenario_hash,
        "image": before.image == after.image,
        "control": before.control == after.control,
        "harness": before.harness.partition(".")[0] == after.harness.partition(".")[0],
        "definition": list(before.definitions.get(metric, ())) == list(after.definitions.get(metric, ())),
        "accelerator": before.accelerators.get(runtime) == after.accelerators.get(runtime),
    }


def judge(found: Series, margin: float) -> Judged:
    """Return whether the newest runs of a series lie on a worse level: a step larger than `margin` (a ratio).

    Only runs since the last declared change count. Values that can be 0 are measured against their median before.
    """
    marks = breaks(found)
    first = marks[-1].index if marks else 0
    values, limit = _scale(found, first, margin)
    key = f"{found.runtime}:{found.metric}:{found.entries[-1].run_id}"
    if len(values) < changepoint.MIN_RUNS:
        reason = f"{len(values)} of {changepoint.MIN_RUNS} runs that mean the same"
        return Judged(found, tuple(marks), first, None, "too-few-runs", reason)
    step = changepoint.tail_step(values, key, limit)
    if step is None:
        return Judged(found, tuple(marks), first, None, "no-step", f"no step in {len(values)} runs")
    moved = Step(step.index + first, step.before, step.after, step.p)
    return Judged(found, tuple(marks), first, moved, "regressed", _told(found, first, moved))


def _scale(found: Series, first: int, margin: float) -> tuple[list[float], float]:
    """Return the segment's values on a scale on which above is worse, and how much of it is too much."""
    numbers = [float(found.compared(place) or 0) for place in range(first, len(found.points))]
    sign = -1.0 if found.better == "higher" else 1.0
    if all(number > 0 for number in numbers):
        return [sign * math.log(number) for number in numbers], math.log1p(margin)
    return [sign * number for number in numbers], margin * abs(median(numbers))


def _told(found: Series, first: int, step: Step) -> str:
    """Return how much the level moved within its segment, and between which runs."""
    since, before = found.entries[step.index], found.entries[step.index - 1]
    sides = (range(first, step.index), range(step.index, len(found.points)))
    old, new = (median([float(found.compared(place) or 0) for place in side]) for side in sides)
    change = f"{new / old - 1:+.1%}" if old else f"{new - old:+g}"
    commits = f" between {before.commit[:8]} and {since.commit[:8]}" if since.commit and before.commit else ""
    return f"{change} since {since.run_id}{commits} (p {step.p:.3f})"

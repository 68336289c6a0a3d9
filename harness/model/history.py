"""A scenario's history as data: one entry a run, one series a metric and runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Number = float | int | None
StepVerdict = Literal["regressed", "no-step", "too-few-runs"]


@dataclass(frozen=True, slots=True)
class Point:
    """One metric of one runtime in one run: its median with interval, and its effect against the control."""

    median: Number
    lo: Number
    hi: Number
    effect: Number
    effect_lo: Number
    effect_hi: Number
    n: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a history. `definitions` say what each metric meant then: [unit, better, assume, hash of its text]."""

    run_id: str
    started: str
    commit: str
    scenario_hash: str
    image: str
    harness: str
    control: str
    accelerators: Mapping[str, str]
    noisy: int
    trials: int
    definitions: Mapping[str, Sequence[str]]
    cells: Mapping[str, Mapping[str, Sequence[Number]]]
    differences: tuple[str, ...] = field(default=())

    def point(self, runtime: str, metric: str) -> Point | None:
        """Return one metric of one runtime, None where this run did not measure it."""
        values = self.cells.get(runtime, {}).get(metric)
        if values is None:
            return None
        median, lo, hi, effect, effect_lo, effect_hi, n = values
        return Point(median, lo, hi, effect, effect_lo, effect_hi, int(n or 0))


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one runtime over runs that mean the same. `points` fit `entries`; `relative` to the control."""

    runtime: str
    metric: str
    unit: str
    better: str
    relative: bool
    entries: tuple[Entry, ...]
    points: tuple[Point, ...]

    def compared(self, place: int) -> Number:
        """Return what is compared at one run: the effect against the control, or the median where there is none."""
        point = self.points[place]
        return point.effect if self.relative else point.median


@dataclass(frozen=True, slots=True)
class Break:
    """A declared change before the run at `index`: numbers on both sides are not compared."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """`index` is the first run on the new level; `before`, `after` are the medians on both sides, as given."""

    index: int
    before: float
    after: float
    p: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A series with what was found at its end: `step` counts in runs of the whole series, `first` begins a segment."""

    series: Series
    breaks: tuple[Break, ...]
    first: int
    step: Step | None
    verdict: StepVerdict
    reason: str

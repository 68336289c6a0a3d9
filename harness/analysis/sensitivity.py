"""What a host can tell apart: from a scenario measured against itself to the smallest change that a gate would catch.

Pure. In an A/A run both arms are the same, so that all that differs between them is this host's noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.gate import samples_of_pairs
from harness.analysis.statistics import Z_95, Estimate, paired_ratio
from harness.model.records import RunRecord, TrialRecord

Z_POWER = 1.0364333894937898
"""The 85 % quantile of the normal distribution: five of them pay for not knowing the noise, but estimating it."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One metric of one runtime against itself. `found` is second / first: 1, but for noise.

    `smallest_ratio` is the change (0.07: 7 %) that a gate with the margin catches in 8 of 10 runs of `blocks` blocks,
    `difference_ratio` what such a run can tell from no change at all. None without an interval.
    """

    metric: str
    runtime: str
    found: Estimate
    blocks: int
    smallest_ratio: float | None
    difference_ratio: float | None


def smallest_change(found: Estimate, blocks: int, margin: float) -> float | None:
    """Return the ratio, less 1, by which something must change to be found beyond `margin` in 8 of 10 runs.

    The half-width of the interval is h = 1.96 standard errors on the log scale and shrinks with the root of the number
    of blocks. The interval lies wholly beyond the margin in 85 % of runs where the change is larger than it by h and
    1.04 standard errors more. Source: the usual power of a one-sided test, Cohen, Statistical Power Analysis, 1988;
    `benchmarks.statistics_power` finds 8 of 10 with simulated noise.
    """
    if found.lo is None or found.hi is None:
        return None
    half = (math.log(found.hi) - math.log(found.lo)) / 2 * math.sqrt(found.n / blocks)
    return math.expm1(math.log1p(margin) + half * (1 + Z_POWER / Z_95))


def sensitivities(
    run: RunRecord, trials: Sequence[TrialRecord], metrics: Sequence[str], *, margin: float, blocks: Sequence[int]
) -> Mapping[str, tuple[Sensitivity, ...]]:
    """Return what a run of a scenario against itself says, by metric and runtime, for each number of blocks.

    Metrics that are 0 somewhere have no ratio and are left out, as are properties.
    """
    found: dict[str, tuple[Sensitivity, ...]] = {}
    for one in samples_of_pairs(trials, run.pairs, metrics):
        exact = run.metrics.get(one.metric, {}).get("assume") == "exact"
        if exact or not all(value > 0 for value in (*one.base, *one.candidate)):
            continue
        ratio = paired_ratio([after / before for before, after in zip(one.base, one.candidate, strict=True)])
        found[f"{one.metric} {one.runtime}"] = tuple(
            Sensitivity(
                one.metric, one.runtime, ratio, n, smallest_change(ratio, n, margin), smallest_change(ratio, n, 0.0)
            )
            for n in blocks
        )
    return found

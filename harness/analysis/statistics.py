"""The statistics of comparison, in plain Python: exact, deterministic, quick to import.

One start is one observation. Runtimes are compared within blocks (each block starts every runtime once), so that drift
of the host falls on both sides of a ratio alike. There is no bootstrap and no random number: the same data give the
same verdict. Intervals are at 95 % and None below 6 values, where an exact two-sided interval does not exist
(2 / 2^5 > 5 %).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from harness.analysis.selection import kth_mean, middle_mean

MIN_VALUES = 6
ALPHA = 0.05
_ONE_IN_ALPHA = 20
EXACT_MAX = 100
"""Up to so many values ranks are counted exactly; beyond, the normal approximation differs by less than one rank in a
hundred, and counting would take minutes."""
Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
OUTLIER_Z = 10.0
EQUIVALENCE_MARGIN = 0.05
"""Two runtimes whose whole interval lies within this ratio are called the same: the default margin of a gate."""
_MAD_TO_SIGMA = 1.482602218505602
"""MAD times this estimates the standard deviation of a normal distribution: 1 / quantile(0.75)."""

Decision = Literal["precise", "beyond", "inside", "more"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval over `n` observations; `lo` and `hi` are None below 6."""

    value: float
    lo: float | None
    hi: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Spearman's rank correlation with the order of trials, and its two-sided p-value (t approximation)."""

    rho: float
    p: float


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle ones. Raises: ValueError without values."""
    if not values:
        raise ValueError("median: no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_estimate(values: Sequence[float]) -> Estimate:
    """Return the median with its order-statistic interval: no assumption on the distribution.

    The interval is from the k-th smallest to the k-th largest value, with the largest k for which
    2 P(Binomial(n, 1/2) < k) <= 5 %. Source: Conover, Practical Nonparametric Statistics, section 3.2.
    """
    n = len(values)
    middle = median(values)
    if n < MIN_VALUES:
        return Estimate(middle, None, None, n)
    ordered = sorted(values)
    k = _median_rank(n)
    return Estimate(middle, ordered[k - 1], ordered[n - k], n)


@lru_cache(maxsize=256)
def _median_rank(n: int) -> int:
    """Return the largest k with 2 P(Binomial(n, 1/2) < k) <= 5 %, counted in whole numbers."""
    k, ways, below = 0, 1, 0
    while 2 * _ONE_IN_ALPHA * (below + ways) <= 2**n:
        below += ways
        ways = ways * (n - k) // (k + 1)
        k += 1
    return k


@lru_cache(maxsize=64)
def _signed_rank_depth(n: int) -> int:
    """Return the largest w with P(W <= w) <= 2.5 % for the signed-rank statistic of n pairs, -1 where there is none.

    Counts the sign patterns of each rank sum exactly, by adding one rank after the other; beyond EXACT_MAX pairs by
    the normal approximation. Source: Hollander, Wolfe, Chicken, section 3.1, large-sample approximation.
    """
    if n > EXACT_MAX:
        sigma = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(n * (n + 1) / 4 - Z_95 * sigma - 0.5)
    counts = [1]
    for rank in range(1, n + 1):
        longer = [*counts, *([0] * rank)]
        for total, count in enumerate(counts):
            longer[total + rank] += count
        counts = longer
    return sum(1 for patterns in accumulate(counts) if 2 * patterns <= ALPHA * 2**n) - 1


def paired_difference(differences: Sequence[float]) -> Estimate:
    """Return the Hodges-Lehmann estimate of paired differences with the exact signed-rank interval.

    The estimate is the median of all Walsh averages (d_i + d_j) / 2, i <= j; the interval is the range of centres
    that Wilcoxon's exact signed-rank test does not reject. With ties it covers at least 95 %.
    Source: Hollander, Wolfe, Chicken, Nonparametric Statistical Methods, sections 3.2 and 3.3.
    """
    n = len(differences)
    depth = _signed_rank_depth(n)
    if n > EXACT_MAX:
        ordered, last = sorted(differences), n * (n + 1) // 2 - 1
        return Estimate(middle_mean(ordered), kth_mean(ordered, depth), kth_mean(ordered, last - depth), n)
    walsh = sorted((differences[i] + differences[j]) / 2 for i in range(n) for j in range(i, n))
    if depth < 0:
        return Estimate(median(walsh), None, None, n)
    return Estimate(median(walsh), walsh[depth], walsh[-1 - depth], n)


def paired_ratio(ratios: Sequence[float]) -> Estimate:
    """Return `paired_difference` of the logarithms of per-block ratios, as a ratio. All must be above 0."""
    if any(ratio <= 0 for ratio in ratios):
        raise ValueError("paired_ratio: a ratio is not above 0")
    log = paired_difference([math.log(ratio) for ratio in ratios])
    if log.lo is None or log.hi is None:
        return Estimate(math.exp(log.value), None, None, log.n)
    return Estimate(math.exp(log.value), math.exp(log.lo), math.exp(log.hi), log.n)


def decide(ratios: Sequence[float], margin: float, precision: float) -> Decision:
    """Return whether per-block ratios to the control tell enough, and what: the three-way stop of a run.

    beyond: the interval lies wholly outside 1 +- margin; inside: wholly within; precise: its half-width is at most
    `precision`. All on the log scale, so that twice and half are as far from 1. Never asks for significance: stopping
    at p < 5 % finds a difference in 17 % of comparisons of equals.
    """
    if not ratios:
        return "more"
    estimate = paired_ratio(ratios)
    if estimate.lo is None or estimate.hi is None:
        return "more"
    lo, hi, limit = math.log(estimate.lo), math.log(estimate.hi), math.log1p(margin)
    if lo > limit or hi < -limit:
        return "beyond"
    if -limit < lo and hi < limit:
        return "inside"
    return "precise" if (hi - lo) / 2 <= math.log1p(precision) else "more"


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, also good near 0 and 1. Raises: ValueError for n = 0.

    Source: Wilson, Probable inference, JASA 22 (1927), without continuity correction.
    """
    if n == 0:
        raise ValueError("wilson_interval: no observations")
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    lo = 0.0 if successes == 0 else centre - half
    return lo, 1.0 if successes == n else centre + half


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for place in range(first, last + 1):
            found[order[place]] = (first + last) / 2 + 1
        first = last + 1
    return found


def _t_two_sided(t: float, freedom: int) -> float:
    """Return P(|T| > |t|) of Student's t with whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inner = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inner))


def drift(values: Sequence[float]) -> Drift | None:
    """Return whether values rise or fall with their order; None below 6 values or where all are equal."""
    n = len(values)
    if n < MIN_VALUES or min(values) == max(values):
        return None
    ranked, mean = ranks(values), (n + 1) / 2
    covariance = sum((rank - mean) * (place - mean) for place, rank in enumerate(ranked, 1))
    spread = math.sqrt(sum((rank - mean) ** 2 for rank in ranked) * (n * (n * n - 1) / 12))
    rho = max(-1.0, min(1.0, covariance / spread))
    if abs(rho) == 1.0:
        return Drift(rho, 0.0)
    return Drift(rho, _t_two_sided(rho * math.sqrt((n - 2) / (1 - rho * rho)), n - 2))


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Return the places of values more than 10 robust standard deviations from the median; to be shown, not dropped.

    Where more than half of the values are equal there is no scale to measure by, and none is told.
    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), with hyperfine's wider limit.
    """
    if not values:
        return ()
    middle = median(values)
    sigma = _MAD_TO_SIGMA * median([abs(value - middle) for value in values])
    if sigma == 0:
        return ()
    return tuple(place for place, value in enumerate(values) if abs(value - middle) / sigma > OUTLIER_Z)

"""P-values and their correction: exact rank tests in whole numbers, in plain Python.

Up to EXACT_MAX values both tests count arrangements instead of approximating: the same data give the same p anywhere.
Ties get the mean of their ranks, and the count is made on those ranks, so that it stays exact with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

from harness.analysis.selection import kth_difference, middle_difference
from harness.analysis.statistics import ALPHA, EXACT_MAX, MIN_VALUES, Z_95, Estimate, median, ranks


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test that the differences are symmetric about 0.

    Zeros tell nothing of a direction and are left out; without any other value p is 1.
    Source: Hollander, Wolfe, Chicken, Nonparametric Statistical Methods, section 3.1, comments on ties and zeros.
    """
    left = [value for value in differences if value]
    if not left:
        return 1.0
    doubled = [round(2 * rank) for rank in ranks([abs(value) for value in left])]
    if len(left) > EXACT_MAX:
        seen = sum(rank for rank, value in zip(doubled, left, strict=True) if value > 0) / 2
        return _normal_p(seen, sum(doubled) / 4, math.sqrt(sum(rank * rank for rank in doubled)) / 4)
    counts = [1]
    for rank in doubled:
        longer = [*counts, *([0] * rank)]
        for total, count in enumerate(counts):
            longer[total + rank] += count
        counts = longer
    positive = sum(rank for rank, value in zip(doubled, left, strict=True) if value > 0)
    return _two_sided(counts, positive, 2 ** len(left))


def rank_sum_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p of the rank-sum test (Mann-Whitney) that two unpaired samples are of one distribution.

    Source: Hollander, Wolfe, Chicken, section 4.1; the distribution of rank sums given the ties is counted.
    Raises: ValueError where a sample is empty.
    """
    if not first or not second:
        raise ValueError("rank_sum_p: a sample without values")
    m, n = len(first), len(second)
    doubled = [round(2 * rank) for rank in ranks([*first, *second])]
    if m + n > EXACT_MAX:
        # The variance of a sum of m ranks drawn without replacement: ties are in the spread of the ranks themselves.
        mean = sum(doubled) / 2 / (m + n)
        spread = sum((rank / 2 - mean) ** 2 for rank in doubled) / (m + n - 1)
        return _normal_p(sum(doubled[:m]) / 2, m * mean, math.sqrt(m * n / (m + n) * spread))
    counts = _subset_sums(tuple(sorted(doubled)), len(first))
    return _two_sided(counts, sum(doubled[: len(first)]), math.comb(len(doubled), len(first)))


def _normal_p(seen: float, mean: float, sigma: float) -> float:
    """Return the two-sided p of a rank sum by the normal approximation, half a rank towards the mean.

    Source: Hollander, Wolfe, Chicken, sections 3.1 and 4.1, large-sample approximations with ties.
    """
    if sigma == 0:
        return 1.0
    return math.erfc(max(0.0, abs(seen - mean) - 0.5) / sigma / math.sqrt(2))


@lru_cache(maxsize=64)
def _subset_sums(weights: tuple[int, ...], size: int) -> list[int]:
    """Return how many subsets of `size` members have each sum, by sum."""
    total = sum(weights)
    by_size = [[0] * (total + 1) for _ in range(size + 1)]
    by_size[0][0] = 1
    reached = 0
    for weight in weights:
        for members in range(size, 0, -1):
            smaller, here = by_size[members - 1], by_size[members]
            for below in range(reached, -1, -1):
                if smaller[below]:
                    here[below + weight] += smaller[below]
        reached += weight
    return by_size[size]


def _two_sided(counts: Sequence[int], seen: int, arrangements: int) -> float:
    below, above = sum(counts[: seen + 1]), sum(counts[seen:])
    return min(1.0, 2 * min(below, above) / arrangements)


@lru_cache(maxsize=256)
def _rank_sum_depth(m: int, n: int) -> int:
    """Return the largest u with P(U <= u) <= 2.5 % for samples of m and n values, -1 where there is none."""
    if m + n > EXACT_MAX:
        return math.floor(m * n / 2 - Z_95 * math.sqrt(m * n * (m + n + 1) / 12) - 0.5)
    # The number of ways to reach each U is a Gaussian binomial: the product of (1 - q^(n+i)) / (1 - q^i), i = 1..m.
    ways = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for power in range(m * n, n + i - 1, -1):
            ways[power] -= ways[power - n - i]
        for power in range(i, m * n + 1):
            ways[power] += ways[power - i]
    limit = math.comb(m + n, m)
    return sum(1 for count in accumulate(ways) if 2 * count <= ALPHA * limit) - 1


def shift(base: Sequence[float], other: Sequence[float]) -> Estimate:
    """Return how far `other` lies from `base` (unpaired): the Hodges-Lehmann shift with the exact rank-sum interval.

    `n` is the smaller of both sizes; without 6 values on each side there is no interval.
    Source: Hollander, Wolfe, Chicken, sections 4.2 and 4.3.
    """
    n = min(len(base), len(other))
    depth = _rank_sum_depth(*sorted((len(base), len(other)))) if n >= MIN_VALUES else -1
    if depth >= 0 and len(base) + len(other) > EXACT_MAX:
        ours, theirs, last = sorted(base), sorted(other), len(base) * len(other) - 1
        lo, hi = kth_difference(ours, theirs, depth), kth_difference(ours, theirs, last - depth)
        return Estimate(middle_difference(ours, theirs), lo, hi, n)
    apart = sorted(after - before for after in other for before in base)
    if depth < 0:
        return Estimate(median(apart), None, None, n)
    return Estimate(median(apart), apart[depth], apart[-1 - depth], n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for being one of a family (Holm, 1979): their false alarms together stay at 5 %."""
    adjusted, worst = dict[str, float](), 0.0
    ordered = sorted(p_values, key=p_values.__getitem__)
    for place, name in enumerate(ordered):
        worst = max(worst, min(1.0, (len(ordered) - place) * p_values[name]))
        adjusted[name] = worst
    return adjusted


def false_discovery(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return q-values (Benjamini and Hochberg, 1995): of what is called a finding at q, that share may be chance."""
    adjusted, least = dict[str, float](), 1.0
    ordered = sorted(p_values, key=p_values.__getitem__)
    for place in range(len(ordered), 0, -1):
        name = ordered[place - 1]
        least = min(least, p_values[name] * len(ordered) / place)
        adjusted[name] = least
    return adjusted

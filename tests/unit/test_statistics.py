"""scipy is the referee: the product's own statistics are plain Python."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.statistics import (
    _signed_rank_depth,
    _t_two_sided,
    decide,
    drift,
    median,
    median_estimate,
    outliers,
    paired_difference,
    paired_ratio,
    wilson_interval,
)

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
positive = st.floats(min_value=1e-3, max_value=1e3)


def test_median_of_odd_and_even():
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_median_interval_known_ranks():
    # Conover, table A3 / every textbook: n = 6 -> whole range, n = 10 -> 2nd and 9th, n = 20 -> 6th and 15th.
    for n, k in ((6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (30, 10)):
        found = median_estimate(list(range(1, n + 1)))
        assert (found.lo, found.hi) == (k, n + 1 - k), n


@pytest.mark.parametrize("n", range(6, 60))
def test_median_interval_is_the_narrowest_that_covers(n):
    found = median_estimate(list(range(1, n + 1)))
    k = int(found.lo)
    assert 2 * stats.binom.cdf(k - 1, n, 0.5) <= 0.05 < 2 * stats.binom.cdf(k, n, 0.5)


def test_no_interval_below_six():
    assert (median_estimate([1, 2, 3, 4, 5]).lo, median_estimate([1, 2, 3, 4, 5]).hi) == (None, None)
    assert paired_difference([1, 2, 3, 4, 5]).lo is None
    assert paired_difference([1, 2, 3, 4, 5, 6]).lo == 1


@pytest.mark.parametrize("n", range(6, 31))
def test_signed_rank_depth_against_the_exact_test(n):
    """W <= depth is rejected at 5 %, W <= depth + 1 is not; W is a subset's rank sum, built from small ranks."""

    def p_value(rank_sum):
        signs, left = [], rank_sum
        for rank in range(n, 0, -1):
            positive_rank = rank <= left
            left -= rank if positive_rank else 0
            signs.append(rank if positive_rank else -rank)
        assert left == 0
        return stats.wilcoxon(signs, method="exact").pvalue

    depth = _signed_rank_depth(n)
    assert p_value(depth) <= 0.05 < p_value(depth + 1)


@given(st.lists(numbers, min_size=6, max_size=14, unique=True))
def test_interval_is_what_the_exact_test_does_not_reject(values):
    found = paired_difference(values)
    width = found.hi - found.lo
    nudge = max(width, 1.0) * 1e-3
    for outside in (found.lo - nudge, found.hi + nudge):
        shifted = [value - outside for value in values]
        sizes = sorted(abs(value) for value in shifted)
        if sizes[0] > 0 and all(a < b for a, b in pairwise(sizes)):  # exact: no zeros, no ties
            assert stats.wilcoxon(shifted, method="exact").pvalue <= 0.05


def test_hodges_lehmann_known_answer():
    # Walsh averages of 1, 2, 4: 1, 1.5, 2, 2.5, 3, 4.
    assert paired_difference([4, 1, 2]).value == 2.25


def test_paired_ratio_reference():
    ratios = [1.91, 1.85, 1.98, 1.90, 1.88, 1.93, 1.87, 1.95, 1.92, 1.89]
    found = paired_ratio(ratios)
    logs = sorted((math.log(a) + math.log(b)) / 2 for i, a in enumerate(ratios) for b in ratios[i:])
    assert found.value == pytest.approx(math.exp((logs[27] + logs[27]) / 2))
    assert (found.lo, found.hi) == (pytest.approx(math.exp(logs[8])), pytest.approx(math.exp(logs[-9])))
    with pytest.raises(ValueError, match="not above 0"):
        paired_ratio([1.0, 0.0])


@given(st.lists(positive, min_size=6, max_size=12), positive)
def test_ratio_turns_over_and_scales(ratios, factor):
    found = paired_ratio(ratios)
    turned = paired_ratio([1 / ratio for ratio in ratios])
    scaled = paired_ratio([ratio * factor for ratio in ratios])
    assert found.lo <= found.value * (1 + 1e-12)
    assert found.value <= found.hi * (1 + 1e-12)
    assert turned.value == pytest.approx(1 / found.value)
    assert (turned.lo, turned.hi) == (pytest.approx(1 / found.hi), pytest.approx(1 / found.lo))
    assert scaled.value == pytest.approx(found.value * factor)


def test_coverage_of_the_paired_interval():
    """2000 runs of 10 blocks, skewed noise and a true ratio of 1.1: the exact interval holds it in 95 % and more."""
    source = random.Random(7)
    runs = 2000
    held = 0
    for _ in range(runs):
        found = paired_ratio([1.1 * math.exp(source.expovariate(10) - source.expovariate(10)) for _ in range(10)])
        held += found.lo <= 1.1 <= found.hi
    assert held / runs >= 0.94


def test_decide_all_four_ways():
    near = [1.0, 1.01, 0.99, 1.005, 0.995, 1.002, 0.998, 1.003, 1.0, 0.997]
    assert decide([2 * ratio for ratio in near], 0.05, 0.05) == "beyond"
    assert decide([ratio / 2 for ratio in near], 0.05, 0.05) == "beyond"
    assert decide(near, 0.05, 0.001) == "inside"
    assert decide([1.05 * ratio for ratio in near], 0.05, 0.05) == "precise"
    assert decide([0.5, 2, 0.7, 1.4, 1.1, 0.9, 1.5, 0.8], 0.05, 0.05) == "more"
    assert decide([2.0] * 5, 0.05, 0.05) == "more"
    assert decide([], 0.05, 0.05) == "more"


@given(st.lists(positive, min_size=0, max_size=12))
def test_decide_treats_twice_and_half_alike(ratios):
    assert decide(ratios, 0.05, 0.05) == decide([1 / ratio for ratio in ratios], 0.05, 0.05)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (9, 10), (10, 10), (3, 33), (0, 1), (50, 100)])
def test_wilson_against_scipy(successes, n):
    found = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == (pytest.approx(found.low, abs=1e-12), pytest.approx(found.high, abs=1e-12))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 28, 99])
@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 2.5, -3.0, 8.0])
def test_t_tail_against_scipy(t, freedom):
    assert _t_two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), abs=1e-12)


@given(st.lists(st.integers(0, 20), min_size=6, max_size=30).filter(lambda values: len(set(values)) > 1))
def test_drift_against_scipy(values):
    found, expected = drift(values), stats.spearmanr(range(len(values)), values)
    assert found.rho == pytest.approx(expected.statistic, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-6)


def test_drift_says_nothing_about_few_or_equal_values():
    assert drift([1, 2, 3, 4, 5]) is None
    assert drift([7] * 10) is None
    assert drift([1, 2, 3, 4, 5, 6]).rho == 1.0


def test_outliers_by_their_place():
    values = [10.0, 10.1, 9.9, 10.2, 9.8, 10.05, 30.0, 9.95]
    assert outliers(values) == (6,)
    deviation = stats.median_abs_deviation(values, scale="normal")
    assert abs(30.0 - median(values)) / deviation > 10
    assert outliers([5, 5, 5, 5, 9]) == ()
    assert outliers([]) == ()


@given(st.lists(numbers, min_size=1, max_size=20))
def test_the_median_is_never_an_outlier(values):
    assert len(outliers(values)) < len(values) / 2

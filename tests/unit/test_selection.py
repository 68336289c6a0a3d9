"""The k-th of all pairs, held against listing them; and what changes where values are too many to count exactly."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis import selection, statistics
from harness.analysis.significance import _rank_sum_depth, rank_sum_p, shift, signed_rank_p
from harness.analysis.statistics import EXACT_MAX, median, median_estimate, paired_difference

NUMBERS = st.lists(
    st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float) | st.sampled_from([0.0, -0.0, 5e-324, 1e300]),
    min_size=1, max_size=40,
)  # fmt: skip


@given(NUMBERS, st.data())
def test_kth_mean_is_one_of_the_listed_pairs(values, data):
    listed = sorted((one + other) / 2 for place, one in enumerate(values) for other in values[place:])
    k = data.draw(st.integers(0, len(listed) - 1))
    assert selection.kth_mean(sorted(values), k) == listed[k]
    assert selection.middle_mean(sorted(values)) == median(listed)


@given(NUMBERS, NUMBERS, st.data())
def test_kth_difference_is_one_of_the_listed_pairs(first, second, data):
    listed = sorted(other - one for one in first for other in second)
    k = data.draw(st.integers(0, len(listed) - 1))
    assert selection.kth_difference(sorted(first), sorted(second), k) == listed[k]
    assert selection.middle_difference(sorted(first), sorted(second)) == median(listed)


@pytest.mark.parametrize("kind", ["spread", "equal", "two values", "zeros and few others"])
def test_thousands_of_values_have_an_interval(kind):
    source = random.Random(1)
    values = {
        "spread": [source.lognormvariate(0, 1) for _ in range(3000)],
        "equal": [0.1] * 3000,
        "two values": [source.choice((1.0, 2.0)) for _ in range(3000)],
        "zeros and few others": [0.0] * 2990 + [source.gauss(0, 1e-9) for _ in range(10)],
    }[kind]
    found, apart = paired_difference(values), shift(values, values)
    assert found.lo <= found.value <= found.hi
    assert apart.lo <= apart.value <= apart.hi
    assert apart.value == 0


@pytest.mark.parametrize("n", [EXACT_MAX + 1, 140])
def test_depths_beyond_the_exact_ones_are_those_of_the_exact_tests(n):
    """Both are held against the exact distribution, by convolution."""
    ways = np.ones(1)
    for rank in range(1, n + 1):
        ways = np.convolve(ways, np.r_[0.5, np.zeros(rank - 1), 0.5])
    exact = int(np.searchsorted(np.cumsum(ways), 0.025, side="right")) - 1
    assert abs(statistics._signed_rank_depth(n) - exact) <= 2
    assert abs(_rank_sum_depth(40, n - 40) - _exact_rank_sum_depth(40, n - 40)) <= 2


def _exact_rank_sum_depth(m, n):
    """Return the largest u with P(U <= u) <= 2.5 %: U has the Gaussian binomial's coefficients."""
    ways = np.array([1.0])
    for i in range(1, m + 1):
        ways = np.convolve(ways, np.r_[1.0, np.zeros(n + i - 1), -1.0])
        ways = np.add.reduce([np.r_[np.zeros(s), ways][: len(ways)] for s in range(0, len(ways), i)])
        ways = ways[: i * n + 1] / ways[: i * n + 1].sum()
    return int(np.searchsorted(np.cumsum(ways), 0.025, side="right")) - 1


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("moved", [0.0, 0.2])
def test_large_p_values_against_scipy(ties, moved):
    source = np.random.default_rng(1)
    first, second = source.normal(0, 1, 150), source.normal(moved, 1, 120)
    if ties:
        first, second = first.round(1), second.round(1)
    expected = stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=True).pvalue
    assert rank_sum_p(list(first), list(second)) == pytest.approx(expected, rel=1e-6)
    apart = first + moved
    expected = stats.wilcoxon(apart, method="asymptotic", correction=True, zero_method="wilcox").pvalue
    assert signed_rank_p(list(apart)) == pytest.approx(expected, rel=1e-6)


def test_exact_and_large_meet_at_the_border():
    """One value more must not move an answer: of those that are counted, and of those that are approximated."""
    source = random.Random(2)
    values = [source.gauss(0.1, 1) for _ in range(EXACT_MAX + 1)]
    exact, large = paired_difference(values[:-1]), paired_difference(values)
    assert large.lo == pytest.approx(exact.lo, abs=0.03)
    assert large.hi == pytest.approx(exact.hi, abs=0.03)
    assert signed_rank_p(values) == pytest.approx(signed_rank_p(values[:-1]), abs=0.05)


def test_the_interval_of_a_median_of_thousands():
    found = median_estimate([float(value) for value in range(4001)])
    assert (found.value, found.n) == (2000, 4001)
    assert found.lo == 4000 - found.hi == stats.binom.ppf(0.025, 4001, 0.5) - 1

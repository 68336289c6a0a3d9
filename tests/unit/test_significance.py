"""scipy is the referee of the p-values and intervals."""

import math
import random
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.significance import false_discovery, holm, rank_sum_p, shift, signed_rank_p

whole = st.integers(min_value=-4, max_value=4)


@pytest.mark.parametrize("n", [6, 9, 15, 40])
def test_signed_rank_against_scipy(n):
    chance = random.Random(n)
    values = [chance.gauss(0.3, 1) for _ in range(n)]
    assert signed_rank_p(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


@given(st.lists(whole, min_size=1, max_size=9))
def test_signed_rank_with_ties_counts_every_pattern(values):
    left = [value for value in values if value]
    if not left:
        assert signed_rank_p(values) == 1
        return
    weights = stats.rankdata([abs(value) for value in left])
    seen = sum(rank for rank, value in zip(weights, left, strict=True) if value > 0)
    sums = [
        sum(rank for rank, sign in zip(weights, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(left))
    ]
    tail = min(sum(total <= seen for total in sums), sum(total >= seen for total in sums))
    assert signed_rank_p(values) == pytest.approx(min(1, 2 * tail / len(sums)))


@pytest.mark.parametrize("sizes", [(6, 6), (8, 12), (20, 20)])
def test_rank_sum_against_scipy(sizes):
    chance = random.Random(sum(sizes))
    first, second = ([chance.gauss(place / 2, 1) for _ in range(size)] for place, size in enumerate(sizes))
    expected = stats.mannwhitneyu(first, second, method="exact").pvalue
    assert rank_sum_p(first, second) == pytest.approx(expected)


@given(st.lists(whole, min_size=1, max_size=5), st.lists(whole, min_size=1, max_size=5))
def test_rank_sum_with_ties_counts_every_choice(first, second):
    weights = stats.rankdata([*first, *second])
    sums = [sum(chosen) for chosen in combinations(weights, len(first))]
    seen = sum(weights[: len(first)])
    tail = min(sum(total <= seen + 1e-9 for total in sums), sum(total >= seen - 1e-9 for total in sums))
    assert rank_sum_p(first, second) == pytest.approx(min(1, 2 * tail / len(sums)))


@pytest.mark.parametrize(("m", "n"), [(6, 6), (7, 10), (12, 12), (30, 30)])
def test_shift_interval_holds_what_the_test_does_not_reject(m, n):
    chance = random.Random(m * n)
    base, other = [chance.gauss(0, 1) for _ in range(m)], [chance.gauss(0.4, 1) for _ in range(n)]
    found = shift(base, other)
    assert found.lo < found.value < found.hi
    for bound, inward in ((found.lo, 1e-9), (found.hi, -1e-9)):
        moved = [value - bound - inward for value in other]
        assert stats.mannwhitneyu(base, moved, method="exact").pvalue > 0.05
        moved = [value - bound + inward for value in other]
        assert stats.mannwhitneyu(base, moved, method="exact").pvalue <= 0.05


def test_shift_without_enough_values_has_no_interval():
    assert shift([1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]).lo is None


def test_holm_by_hand():
    # Holm (1979): smallest p times 3, next times 2, never below the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=12))
def test_false_discovery_against_scipy(values):
    named = {str(place): value for place, value in enumerate(values)}
    found = false_discovery(named)
    expected = stats.false_discovery_control(values, method="bh")
    assert all(math.isclose(found[str(place)], q, abs_tol=1e-12) for place, q in enumerate(expected))

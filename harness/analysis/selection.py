"""The k-th smallest of all pairwise means or differences, without making the pairs: n log n instead of n squared.

A run of 10,000 trials has millions of pairs for each metric. How many pairs lie at or below a value is counted by two
pointers over sorted values; bisection then closes in until few enough pairs are left to be listed. The answer is one of
the pairs, to the last bit.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import chain

_LISTED_PER_ROW = 4
"""So many pairs for each value may be listed and sorted: less work than some rounds of counting."""


def middle_mean(ordered: Sequence[float]) -> float:
    """Return the median of all means (x_i + x_j) / 2, i <= j, of sorted values."""
    count = len(ordered) * (len(ordered) + 1) // 2
    low = kth_mean(ordered, (count - 1) // 2)
    return low if count % 2 else (low + kth_mean(ordered, count // 2)) / 2


def kth_mean(ordered: Sequence[float], k: int) -> float:
    """Return the k-th smallest (from 0) of all means (x_i + x_j) / 2, i <= j, of sorted values."""

    def counted(limit: float) -> int:
        total, right = 0, len(ordered)
        for left, value in enumerate(ordered):
            while right > left and (value + ordered[right - 1]) / 2 > limit:
                right -= 1
            if right <= left:
                break
            total += right - left
        return total

    def row(left: int, above: float, to: float) -> list[float]:
        value = ordered[left]
        first = bisect_right(ordered, above, lo=left, key=lambda other: (value + other) / 2)
        last = bisect_right(ordered, to, lo=first, key=lambda other: (value + other) / 2)
        return [(value + other) / 2 for other in ordered[first:last]]

    return _kth(k, (ordered[0], ordered[-1]), counted, row, len(ordered))


def middle_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median of all differences y - x of sorted values."""
    count = len(first) * len(second)
    low = kth_difference(first, second, (count - 1) // 2)
    return low if count % 2 else (low + kth_difference(first, second, count // 2)) / 2


def kth_difference(first: Sequence[float], second: Sequence[float], k: int) -> float:
    """Return the k-th smallest (from 0) of all differences y - x, x of `first` and y of `second`, both sorted."""

    def counted(limit: float) -> int:
        total, right = 0, 0
        for value in first:
            while right < len(second) and second[right] - value <= limit:
                right += 1
            total += right
        return total

    def row(place: int, above: float, to: float) -> list[float]:
        value = first[place]
        begin = bisect_right(second, above, key=lambda other: other - value)
        end = bisect_right(second, to, lo=begin, key=lambda other: other - value)
        return [other - value for other in second[begin:end]]

    bounds = second[0] - first[-1], second[-1] - first[0]
    return _kth(k, bounds, counted, row, len(first))


def _kth(
    k: int,
    bounds: tuple[float, float],
    counted: Callable[[float], int],
    row: Callable[[int, float, float], list[float]],
    rows: int,
) -> float:
    """Close in on the k-th pair, which lies above `low` and at most at `high`.

    `counted` says how many pairs lie at or below a value; `row` lists those of one row above a value and up to another.
    Distances are halved by value and by the number of floats between in turn: the one is quick, the other ends.
    """
    low, high = _float(_place(bounds[0]) - 1), bounds[1]
    below, upto, by_value = 0, counted(high), True
    while upto - below > _LISTED_PER_ROW * rows:
        middle = low / 2 + high / 2
        if not by_value or not low < middle < high:
            middle = _float((_place(low) + _place(high)) // 2)
        if not low < middle < high:
            return high  # all that are left are equal
        seen = counted(middle)
        if seen > k:
            high, upto = middle, seen
        else:
            low, below = middle, seen
        by_value = not by_value
    return sorted(chain.from_iterable(row(place, low, high) for place in range(rows)))[k - below]


def _place(value: float) -> int:
    """Return a float's place among all floats, so that the middle between two floats can be taken by number."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return int(bits) if bits >= 0 else -(int(bits) + 2**63)


def _float(place: int) -> float:
    (value,) = struct.unpack("<d", struct.pack("<q", abs(place)))
    return float(value) if place >= 0 else -float(value)

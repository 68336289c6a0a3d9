"""Steps in a history of runs: whether the last few runs lie on another level than those before them.

One run beside the one before it tells little: of 26 pushes that change nothing, more than half see a 10 % alarm. So the
question here is whether the last 3 to 6 runs, as a group, rank above the others, by a permutation test on ranks (a
spike cannot dominate), and whether the step is larger than the margin. Its random numbers come from a key, so that the
same history gives the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.model.history import Step

WINDOW = 30
LAGS = (3, 4, 5, 6)
"""How many runs may lie after the step: fewer could be chance, more were seen before."""
MIN_BEFORE = 8
MIN_RUNS = MIN_BEFORE + LAGS[0]
ALPHA = 0.003
"""Once for each run: over 26 runs that change nothing this is wrong in 2 to 3 of 100 histories."""
PERMUTATIONS = 1999
Floats = npt.NDArray[np.float64]


def tail_step(values: Sequence[float], key: str, margin: float) -> Step | None:
    """Return an upward step among the last runs, None where there is none.

    `values`: (n_runs,) oldest first, on a scale on which `margin` is a difference (logarithms of ratios, with log1p of
    the ratio that matters). `key` seeds the permutations. Raises: ValueError below MIN_RUNS values.
    """
    if len(values) < MIN_RUNS:
        raise ValueError(f"tail_step: {len(values)} runs of {MIN_RUNS}")
    window = np.asarray(values[-WINDOW:], dtype=np.float64)
    n = len(window)
    starts = [n - lag for lag in LAGS if n - lag >= MIN_BEFORE]
    ranks = _ranks(window)
    seen = _contrasts(ranks, starts)
    source = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    shuffled = source.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    p = float(1 + np.sum(_contrasts(shuffled, starts).max(axis=0) >= seen.max())) / (PERMUTATIONS + 1)
    start = starts[int(seen.argmax())]
    before, after = float(np.median(window[:start])), float(np.median(window[start:]))
    if p >= ALPHA or after - before <= margin:
        return None
    return Step(len(values) - n + start, before, after, p)


def _ranks(values: Floats) -> Floats:
    """Return ranks from 0; equal values share the mean of theirs, or the order of runs would decide."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Floats = (last - counts + last - 1) / 2
    return middle[places]


def _contrasts(ranks: npt.NDArray[Any], starts: Sequence[int]) -> Floats:
    """Return, for each start, how far the ranks after it lie above those before it, in units of its own spread.

    As many of the highest ranks as there are runs after the start count alike: a spike of an earlier run then does not
    outrank a new level.
    """
    n = ranks.shape[-1]
    ordered = np.sort(ranks, axis=-1)
    found = []
    for start in starts:
        clipped = np.minimum(ranks, ordered[..., start : start + 1])
        apart = clipped[..., start:].mean(-1) - clipped[..., :start].mean(-1)
        found.append(apart * np.sqrt(start * (n - start) / n))
    return np.array(found)

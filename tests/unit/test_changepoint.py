import math
import random

import pytest

from harness.analysis.changepoint import MIN_RUNS, tail_step


def history(n, seed, step_at=None, factor=1.1):
    """Runs with 3 % noise and a spike in 20, on the log scale."""
    source = random.Random(seed)
    values = []
    for place in range(n):
        spike = 0.3 if source.random() < 0.05 else 0.0
        level = math.log(factor) if step_at is not None and place >= step_at else 0.0
        values.append(level + spike + source.gauss(0, 0.03))
    return values


def test_a_step_is_found_after_five_runs_where_it_is():
    found = [tail_step(history(40, seed, step_at=35), f"k{seed}", math.log1p(0.05)) for seed in range(60)]
    there = [step for step in found if step is not None]
    assert len(there) >= 51  # 90 % of many more
    assert sum(abs(step.index - 35) <= 1 for step in there) >= 51
    assert all(step.after > step.before for step in there)


def test_quiet_histories_raise_no_alarm():
    alarmed = 0
    for seed in range(40):
        values = history(38, seed + 1000)
        alarmed += any(tail_step(values[: n + 1], f"q{seed}:{n}", math.log1p(0.05)) for n in range(12, 38))
    assert alarmed <= 3


def test_the_same_history_gives_the_same_answer():
    values = history(25, 3, step_at=20)
    assert tail_step(values, "k", 0.04) == tail_step(values, "k", 0.04)


def test_equal_values_are_no_step():
    assert tail_step([1.0] * 20, "k", 0.04) is None


def test_few_runs_are_refused():
    with pytest.raises(ValueError, match="runs of 11"):
        tail_step([0.0] * (MIN_RUNS - 1), "k", 0.04)

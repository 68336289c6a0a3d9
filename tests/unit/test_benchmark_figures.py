"""From samples of container starts to ratios and verdicts."""

from __future__ import annotations

import pytest

from benchmarks._figures import ratio, ratio_table, ratios, resident_line, step_table, table
from benchmarks._same import Sample

MS = 10**6


def samples(execed_ms: int, deleted_ms: int, count: int = 20) -> list[Sample]:
    return [Sample(0, execed_ms * MS, deleted_ms * MS, deleted_ms * MS) for _ in range(count)]


def test_ratio_is_that_of_the_medians_within_its_interval() -> None:
    found = ratio([10, 10, 10, 90], [20, 20, 20, 20])
    assert found.value == 0.5
    assert found.low == 0.5
    assert found.high > 0.5


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        pytest.param(samples(3, 3), "met (target 0.35)", id="met"),
        pytest.param(samples(3, 5), "missed (target 0.35)", id="one-column-misses"),
        pytest.param(samples(3, 3, 10) + samples(4, 4, 10), "within the interval", id="close"),
    ],
)
def test_target_is_met_when_both_columns_meet_it(ours: list[Sample], verdict: str) -> None:
    rows = ratios({"builtin": ours, "crun": samples(10, 10)})
    assert [row["to"] for row in rows] == ["crun"]
    assert verdict in str(rows[0]["verdict"])


def test_rows_without_a_target_have_no_verdict() -> None:
    assert ratios({"builtin": samples(3, 3), "floor": samples(1, 1)})[0]["verdict"] == ""


def test_table_shows_milliseconds_and_what_there_is_not() -> None:
    lines = table({"floor": samples(2, 4)}).splitlines()
    assert lines[1].split() == ["floor", "-", "2.00", "(2.0-2.0)", "4.00", "(4.0-4.0)", "4.00", "(4.0-4.0)"]
    assert "builtin over" in ratio_table({"builtin": samples(1, 1)})


def test_large_parents_are_held_against_small_ones() -> None:
    small, large = {"builtin": samples(1, 10)}, {"builtin": samples(1, 13)}
    assert "builtin 1.30 (missed)" in resident_line(small, large, "10ms")
    assert "builtin 1.00 (met)" in resident_line(small, small, "10ms")


def test_steps_add_up_to_the_whole() -> None:
    traced = [Sample(0, 700_000, 800_000, 900_000, (100_000, 300_000, 600_000))] * 10
    lines = step_table(["trace", "clone", "exec"], traced).splitlines()
    assert [float(line.split()[0]) for line in lines] == [100, 200, 300, 100, 100, 100]
    assert [line.split(")", 1)[1].strip() for line in lines[1:3]] == ["1 clone", "2 exec"]

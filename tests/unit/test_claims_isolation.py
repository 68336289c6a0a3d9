"""The row on isolation: what is within reach, what a neighbour disturbs, what breaks; and the three together."""

from dataclasses import replace

import pytest

from harness.analysis.claims import whole_table
from harness.analysis.claims_isolation import study_claim
from harness.analysis.summary import analyse
from harness.model.report import Cell
from tests.example_run import example_run, example_trials

CLAIMED = ("complete", "operating-system level")
ARMS = {"container": {"boundary": "container"}, "vm": {"boundary": "vm"}}


def cell(metric, runtime, median, lo=None, hi=None, absent=(), **labels):
    n, exact = 0 if median is None else 7, metric.startswith("containment")
    return Cell(metric, runtime, "ratio", n, median, lo, hi, median, median, None, absent, labels, exact)


def study(kind):
    return replace(example_run(), study={"kind": kind}, arms=ARMS, runtimes=tuple(ARMS))


def beside(vm, interval=(None, None), floor=0.02):
    return study_claim(
        study("interference"),
        [
            cell("interference.cpu.kept", "vm", vm, *interval),
            cell("interference.cpu.aa", "vm", 1 - floor),
            cell("interference.cpu.kept", "container", 0.5, 0.45, 0.55),
        ],
        CLAIMED,
    )


@pytest.mark.parametrize(
    ("vm", "interval", "floor", "verdict", "words"),
    [
        (0.5, (0.45, 0.55), 0.02, "fails", "beside a noisy one vm is left with 50% of its work (cpu): not complete"),
        (0.98, (0.95, 1.01), 0.02, "holds", "loses less than 10% of any work"),
        (0.8, (0.7, 0.95), 0.3, "not shown", "quiet windows alone differ by up to 30%"),
        (0.5, (None, None), 0.02, "not shown", "fewer than 6 blocks"),
        (None, (None, None), 0.02, "not shown", "no VM was disturbed"),
    ],
)
def test_a_neighbour_disturbs_or_does_not(vm, interval, floor, verdict, words):
    found = beside(vm, interval, floor)
    assert found.verdict == verdict
    assert words in found.reason
    assert found.scenario == "noisy-neighbour"
    assert "container beside a noisy one: CPU keeps 50%" in found.measured_container


def broken(panic=1):
    shared = "shared kernel: a panic here would be the host's"
    return study_claim(
        study("containment"),
        [
            cell("containment.held", "vm", 1 + panic, of="2"),
            cell("containment.memory", "vm", 1),
            cell("containment.panic", "vm", panic),
            cell("containment.held", "container", 1, of="1"),
            cell("containment.panic", "container", None, absent=(shared,)),
        ],
        CLAIMED,
    )


def test_what_breaks_stays_inside_or_does_not():
    assert broken().verdict == "holds"
    assert broken().measured_container == "container: 1 of 1 faults contained; never tried: panic (shared kernel)"
    assert broken(panic=0).verdict == "fails"
    assert broken(panic=0).reason == "not every fault stayed in the VM (vm: panic)"


def test_three_runs_speak_as_one_row_and_it_fails_where_one_part_does():
    reach = analyse(example_run(), example_trials()).claims
    tables = [
        ("r1", reach),
        ("r2", [replace(beside(0.5, (0.45, 0.55)), blocks=7)]),
        ("r3", [replace(broken(), blocks=3)]),
    ]
    row = next(row for row in whole_table(tables) if row.feature == "Isolation")
    assert row.verdict == "fails"
    assert [part.partition(":")[0] for part in row.reason.split("; ")] == ["reach", "interference", "containment"]
    assert (row.run_id, row.blocks, row.remark) == ("r1, r2, r3", 3, "")
    assert "own kernel" in row.measured_vm
    assert "2 of 2 faults contained" in row.measured_vm
    (held,) = [row for row in whole_table([tables[0], tables[2]]) if row.feature == "Isolation"]
    assert (held.verdict, held.remark) == ("holds", "not measured: interference")
    (alone,) = [row for row in whole_table(tables[:1]) if row.feature == "Isolation"]
    assert alone.reason.startswith("as the text means it")


def test_a_run_of_a_study_has_the_row_in_its_own_report():
    run = replace(study("containment"), metrics={}, control="container")
    assert [row.feature for row in analyse(run, []).claims] == ["Isolation"]

"""From marks to named phases: every runtime's own, without a gap, and none of a negative length."""

from __future__ import annotations

import pytest

from harness.analysis import phases
from harness.model.milestones import ANSWER, LADDER

MS = 1_000_000
BZIMAGE = {
    "vmm.exec": 246 * MS, "vcpu": 393 * MS, "firmware": 394 * MS, "handover": 589 * MS, "decompress": 687 * MS,
    "kernel": 2240 * MS, "initramfs": 6700 * MS, "init": 8520 * MS, "drivers": 9270 * MS, "root": 9440 * MS,
    "exec": 9600 * MS, "ready": 9850 * MS,
}  # fmt: skip
PVH = {name: at for name, at in BZIMAGE.items() if name not in {"decompress", "initramfs"}}
MICROVM = {name: at for name, at in PVH.items() if name not in {"firmware", "handover"}}
CONTAINER = {"runtime.exec": 3 * MS, "init": 5 * MS, "exec": 6 * MS, "ready": 7 * MS}


@pytest.mark.parametrize(
    ("marks", "names"),
    [
        (
            BZIMAGE,
            "VMM | machine | firmware | load kernel | decompression | kernel | initramfs | drivers | root mount | init"
            " | exec to ready",
        ),
        (
            PVH,
            "VMM | machine | firmware | load kernel | kernel, initramfs | drivers | root mount | init | exec to ready",
        ),
        (
            MICROVM,
            "VMM | machine | firmware, load kernel | kernel, initramfs | drivers | root mount | init | exec to ready",
        ),
        (CONTAINER, "launcher | isolation, root mount | init | exec to ready"),
        ({"init": 4 * MS, "ready": 7 * MS}, "process | exec to ready"),
    ],
)
def test_phases_are_named_by_what_happens_and_leave_no_gap(marks: dict[str, int], names: str) -> None:
    found = phases.of_marks(marks)
    assert " | ".join(phase.name for phase in found) == names
    assert [phase.begin_ns for phase in found[1:]] == [phase.end_ns for phase in found[:-1]]
    assert sum(phase.length_ns for phase in found) == marks["ready"]
    assert all(phase.name in phases.DOCS for phase in found)


def test_marks_that_overtook_each_other_make_no_negative_phase() -> None:
    found = phases.of_marks({**PVH, "vcpu": 600 * MS, "handover": 589 * MS})
    assert min(phase.length_ns for phase in found) == 0
    assert sum(phase.length_ns for phase in found) == PVH["ready"]


def test_every_milestone_up_to_ready_can_end_a_phase() -> None:
    steps = LADDER[1 : LADDER.index(ANSWER)]
    assert {phase.end for phase in phases.of_marks(dict.fromkeys(steps, 1))} == {*steps} - {"firmware"}

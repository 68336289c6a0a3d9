"""The self-test finds what it was told, and says so where it does not: it is of no use if it cannot fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from harness.interfaces import Emit, ExecResult, Instance
from harness.model.metrics import Better, Measurement, Metric, Unit
from harness.model.milestones import Mark
from harness.trials import selftest
from tests.fakes import FakeInstance

MS = 1_000_000


class Clock(FakeInstance):
    """Sends marks on time by its own clock, all but every second one; the host sees time run `speed` times as fast."""

    speed: float = 1.0
    late_ns: int = 300 * MS
    touched: bool = False

    def calibrate(self, count: int, gap_ns: int = 0) -> Sequence[Mark]:
        sent = [number * gap_ns + (number // 2) * self.late_ns for number in range(count)]
        return [Mark("cal", round(at * self.speed) + 5 * MS, "0", at) for at in sent]

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        self.touched = self.touched or argv == ["harness:touch", str(64 << 20)]
        return ExecResult(0, b"", b"")


class Ledger:
    """Accounts with and without what was touched."""

    name, doc, metrics = "memory", "", ()

    def __init__(self, grown: Mapping[str, int]) -> None:
        self._grown = grown

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        for name, grown in self._grown.items():
            metric = Metric(name, Unit.BYTES, Better.LOWER, "")
            emit(Measurement(metric, 1000 + (grown if getattr(instance, "touched", False) else 0)))
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None: ...


def test_a_known_time_is_found_although_the_sender_was_held_up_at_times() -> None:
    found = list(selftest.times(Clock()))
    assert [(check.known, check.found) for check in found] == [(ns, ns) for ns in selftest.DELAYS]
    assert all(check.holds for check in found)


@pytest.mark.parametrize(("speed", "holds"), [(1.005, [True, True, True]), (1.03, [True, False, False])])
def test_a_clock_that_runs_wrong_is_told(speed: float, holds: list[bool]) -> None:
    clock = Clock()
    clock.speed = speed
    assert [check.holds for check in selftest.times(clock)] == holds


@pytest.mark.parametrize(("off", "holds"), [(0, True), (1 << 20, True), (-2 << 20, False)])
def test_what_was_touched_must_be_in_the_ledger(off: int, holds: bool) -> None:
    grown = (64 << 20) + off
    found = list(selftest.accounts(Clock(), Ledger({"memory.pss": grown, "memory.cgroup.anon": 64 << 20})))
    assert [(check.what, check.holds) for check in found] == [("memory.pss", holds), ("memory.cgroup.anon", True)]


def test_an_account_that_is_absent_does_not_hold() -> None:
    found = list(selftest.accounts(Clock(), Ledger({"memory.pss": 64 << 20})))
    assert [check.holds for check in found] == [True, False]
    assert found[1].reason

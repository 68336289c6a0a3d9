"""Whether the harness finds again what it is told beforehand: times between marks, memory that was touched.

Both go the whole way that measurements go: the marks' channel and its reader, the probe's ledger. What they find is
held against what was asked for, so that a wrong clock, a slow reader or a wrong account shows before it measures.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from harness.interfaces import Arm, Boundary, Instance, Probe
from harness.model.metrics import Absent, Measurement, Unit
from harness.model.milestones import READY, Mark
from harness.model.spec import WorkloadSpec

WORKLOAD = WorkloadSpec(argv=("harness:true",), timeout_ns=120_000_000_000)
DELAYS = {10_000_000: 60, 100_000_000: 15, 1_000_000_000: 4}
"""Delay in ns: how often it is tried."""
TOUCHED_BYTES = 64 << 20
_EXEC_NS = 60_000_000_000
_TIME_RATIO, _TIME_LEAST_NS, _MEMORY_RATIO = 0.01, 2_000_000, 0.02

# What must grow by what was touched; a difference of two is what the guest uses of the RAM that the host holds.
_ACCOUNTS: dict[Boundary, tuple[tuple[str, ...], ...]] = {
    "vm": (("memory.inside.anon",), ("memory.guest_ram", "memory.guest_ram.idle")),
    "container": (("memory.pss",), ("memory.cgroup.anon",)),
    "process": (("memory.pss",), ("memory.cgroup.anon",)),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was known and what was found of it; `found` None: it could not be had, for `reason`."""

    what: str
    known: int
    found: int | None
    allowed: int
    unit: Unit
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.found is not None and abs(self.found - self.known) <= self.allowed


def check(arm: Arm, memory: Probe) -> list[Check]:
    """Start one instance of `WORKLOAD` and return what was found. Raises: TrialError where it does not start."""
    instance = arm.launch("selftest")
    try:
        instance.wait(READY, time.monotonic_ns() + WORKLOAD.timeout_ns)
        return [*times(instance), *accounts(instance, memory)]
    finally:
        instance.stop(time.monotonic_ns() + WORKLOAD.timeout_ns)


def times(instance: Instance) -> Iterator[Check]:
    """Yield how long the host finds the time between marks that were sent a known time apart."""
    for known_ns, count in DELAYS.items():
        marks = [mark for mark in instance.calibrate(count + 1, known_ns) if mark.milestone == "cal"]
        found = _kept(marks, known_ns)
        allowed = max(_TIME_LEAST_NS, round(known_ns * _TIME_RATIO))
        yield Check("time between marks", known_ns, found, allowed, Unit.NS, "no mark arrived" if found is None else "")


def _kept(marks: Sequence[Mark], known_ns: int) -> int | None:
    """Return the median of the gaps that the sender kept best by its own clock, as the host saw them.

    A busy host stops the sender too: then the delay itself is another one than was asked for.
    """
    gaps = [
        (abs(after.inside_ns - before.inside_ns - known_ns), after.at_ns - before.at_ns)
        for before, after in itertools.pairwise(marks)
        if before.inside_ns is not None and after.inside_ns is not None
    ]
    best = [seen_ns for _, seen_ns in sorted(gaps)[: max(1, len(gaps) // 6)]]
    return round(median(best)) if best else None


def accounts(instance: Instance, memory: Probe) -> Iterator[Check]:
    """Yield by how much each account of the ledger grows when a known amount of memory is touched inside.

    A little is touched first: pages that a guest's CPU keeps at hand for itself count neither as free nor as used, and
    after a boot there are many of them.
    """
    instance.exec(["harness:touch", str(TOUCHED_BYTES // 16)], _EXEC_NS)
    before = _ledger(instance, memory)
    result = instance.exec(["harness:touch", str(TOUCHED_BYTES)], _EXEC_NS)
    after = _ledger(instance, memory) if result.returncode == 0 else {}
    why = result.stderr.decode("utf-8", "replace").strip() if result.returncode else ""
    for names in _ACCOUNTS[instance.boundary]:
        old, new = _total(before, names), _total(after, names)
        what = " less ".join(names)
        if old is None or new is None:
            yield Check(what, TOUCHED_BYTES, None, 0, Unit.BYTES, why or "an account of it was absent")
        else:
            yield Check(what, TOUCHED_BYTES, new - old, round(TOUCHED_BYTES * _MEMORY_RATIO), Unit.BYTES)


def _ledger(instance: Instance, memory: Probe) -> Mapping[str, int]:
    found: dict[str, int] = {}

    def emit(one: Measurement | Absent) -> None:
        if isinstance(one, Measurement):
            found[one.metric.name] = int(one.value)

    with memory.watch(instance, emit):
        pass
    return found


def _total(ledger: Mapping[str, int], names: Sequence[str]) -> int | None:
    """Return the first account less the others, None where one is absent."""
    values = [ledger.get(name) for name in names]
    present = [value for value in values if value is not None]
    return present[0] - sum(present[1:]) if len(present) == len(values) else None

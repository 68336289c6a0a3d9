"""What a start takes in guest instructions, not in time: the same count on a quiet and on a busy machine.

A guest under `icount: true` reads them from its own time stamp counter, and its agent sends the reading with each mark.
A wait counts as well: the counter jumps to the timer that ends it. A container's start has no such counter of its own:
see `start_calls`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.interfaces import Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.milestones import EXEC, INIT, READY, ROOT

_COUNTED = {
    READY: Metric(
        "boot.instructions",
        Unit.COUNT,
        Better.LOWER,
        "guest instructions from its first one to ready; what it waits for a timer counts as 1 per ns",
    ),
    **{
        name: Metric(f"boot.instructions.{name}", Unit.COUNT, Better.LOWER, f"the same to {name}")
        for name in (INIT, ROOT, EXEC)
    },
}
_ABSENT = {
    "vm": "this guest's instructions were not counted: icount: true of the libvirt backend",
    "container": "a container runs on the host's kernel, whose instructions are not the start's alone: see start.calls",
}


class BootInstructionsProbe:
    name = "boot_instructions"
    doc = "guest instructions to each milestone of a boot (icount: true), free of the host's noise"
    metrics = tuple(_COUNTED.values())

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """The guest counts by itself."""
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Every count came with its mark."""
        counts = {mark.milestone: mark.instructions for mark in reversed(instance.marks)}
        counted = any(value is not None for value in counts.values())
        why = "this trial did not get that far" if counted else _ABSENT.get(instance.boundary, _ABSENT["container"])
        for name, metric in _COUNTED.items():
            value = counts.get(name)
            emit(Absent(metric, why) if value is None else Measurement(metric, value))


PLUGIN = BootInstructionsProbe()

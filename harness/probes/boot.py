"""What a start takes in guest instructions, not in time: the same count on a quiet and on a busy machine.

A guest under `icount: true` reads them from its own time stamp counter, and its agent sends the reading with each mark.
A wait counts as well: the counter jumps to the timer that ends it. A container shares the host's kernel; what its start
takes is counted there, under `count: true`: system calls, and instructions where the host's CPU lets them be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness.interfaces import Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.milestones import EXEC, INIT, READY, ROOT, Mark

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
_OF_ALL = "of everything that the start runs, up to ready"
CALLS = Metric("boot.calls", Unit.COUNT, Better.LOWER, f"system calls {_OF_ALL}")
INSTRUCTIONS = Metric(
    "boot.host_instructions", Unit.COUNT, Better.LOWER, f"CPU instructions {_OF_ALL}, in user and kernel"
)

_NO_BOOT = "nothing boots: it runs on the host's kernel; see boot.calls"
_NO_CALLS = "a guest's system calls end in its own kernel: see boot.instructions"
_NOT_ASKED = "not counted: count: true of the backends builtin and process"
_NO_COUNTER = "this host shows no instruction counter (usual in a VM)"
_SHORT = "this trial did not get that far"


class BootProbe:
    name = "boot"
    doc = "what a start takes without the host's noise: instructions of a guest, system calls of a container"
    metrics = (*_COUNTED.values(), CALLS, INSTRUCTIONS)

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """Nothing is read while it runs: every count comes with its mark."""
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        first = {mark.milestone: mark for mark in reversed(instance.marks)}
        if instance.boundary == "vm":
            _conclude_guest(first, emit)
        else:
            _conclude_start(first.get(READY), emit)


def _conclude_guest(first: Mapping[str, Mark], emit: Emit) -> None:
    counted = any(mark.instructions is not None for mark in first.values())
    why = _SHORT if counted else "this guest's instructions were not counted: icount: true of the libvirt backend"
    for name, metric in _COUNTED.items():
        value = first[name].instructions if name in first else None
        emit(Absent(metric, why) if value is None else Measurement(metric, value))
    emit(Absent(CALLS, _NO_CALLS))
    emit(Absent(INSTRUCTIONS, _NO_CALLS))


def _conclude_start(ready: Mark | None, emit: Emit) -> None:
    for metric in _COUNTED.values():
        emit(Absent(metric, _NO_BOOT))
    if ready is None or ready.calls is None:
        emit(Absent(CALLS, _NOT_ASKED))
        emit(Absent(INSTRUCTIONS, _NOT_ASKED))
        return
    emit(Measurement(CALLS, ready.calls))
    if ready.instructions is None:
        emit(Absent(INSTRUCTIONS, _NO_COUNTER))
    else:
        emit(Measurement(INSTRUCTIONS, ready.instructions))


PLUGIN = BootProbe()

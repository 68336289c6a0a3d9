"""The milestones of a start and an end on the host's clock, and what it costs to report them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from harness.agent.marks import delivery_ns
from harness.interfaces import Boundary, Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.model.milestones import (
    ANSWER,
    DECOMPRESS,
    DELETED,
    DOCS,
    DRIVERS,
    EXITED,
    FIRMWARE,
    HANDOVER,
    INITRAMFS,
    KERNEL,
    LADDER,
    OCI_EXEC,
    OCI_START,
    REQUESTED,
    RETURNED,
    ROOT,
    RUNTIME_EXEC,
    SHIM_EXEC,
    STOPPING,
    VCPU,
    VMM_EXEC,
)

CALIBRATION_MARKS = 20

MILESTONES = {
    name: Metric(f"startup.{name}", Unit.NS, Better.LOWER, f"requested to {name}: {DOCS[name]}")
    for name in (*LADDER, RETURNED)
    if name not in {REQUESTED, STOPPING, DELETED}
}
STOP = Metric("stop.deleted", Unit.NS, Better.LOWER, f"stopping to deleted: {DOCS[DELETED]}")
WRITE = Metric(
    "marker.write", Unit.NS, Better.LOWER, "what writing one mark costs the sender, on the sender's clock; median"
)
DELIVERY = Metric(
    "marker.delivery",
    Unit.NS,
    Better.LOWER,
    "from the sender's stamp to the host's; median. In a VM above the quickest of the series: the clocks differ",
)

_NO_VMM = "no VMM: it runs on the host's kernel"
_NO_LOG = "the firmware of this machine type writes no log"
_NOT_OURS = "its own system loads drivers and mounts the root, before the agent runs"
_NO_ENGINE = "seen only of engines that are traced: `trace: true` of docker, podman, containerd"
_ABSENT: dict[tuple[str, Boundary], str] = {
    **{
        (name, boundary): _NO_ENGINE
        for name in (SHIM_EXEC, OCI_EXEC, OCI_START)
        for boundary in ("process", "container", "vm")
    },
    **{
        (name, boundary): _NO_VMM
        for name in (VMM_EXEC, VCPU, FIRMWARE, HANDOVER, DECOMPRESS, KERNEL, INITRAMFS, DRIVERS)
        for boundary in ("process", "container")
    },
    (ROOT, "process"): "mounted before the clock starts",
    (ROOT, "container"): "its launcher mounts it, between runtime.exec and init",
    (RUNTIME_EXEC, "vm"): "a VM has no launcher on the host: see vmm.exec",
    (VCPU, "vm"): "its counter starts with the first instruction only under emulation, and is a clock only uncounted",
    (FIRMWARE, "vm"): _NO_LOG,
    (HANDOVER, "vm"): _NO_LOG,
    (DECOMPRESS, "vm"): "its kernel is loaded uncompressed, or does not say when it unpacks itself",
    (INITRAMFS, "vm"): "the kernel says so only where it may talk: cmdline: loglevel=7",
    (DRIVERS, "vm"): _NOT_OURS,
    (ROOT, "vm"): _NOT_OURS,
}
_NEVER = {
    ANSWER: "the readiness condition is not an answer",
    EXITED: "the workload ran until it was stopped",
    RETURNED: "this backend does not say when its call returned",
}


class StartupProbe:
    name = "startup"
    doc = "milestones from requested to ready and to the end, and what the markers themselves cost"
    metrics = (*MILESTONES.values(), STOP, WRITE, DELIVERY)

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """The channel is measured last, when everything else has been read."""
        yield
        marks = instance.calibrate(CALIBRATION_MARKS)
        sent = [mark for mark in marks if mark.milestone == "cal"]
        took = [int(mark.detail) for mark in marks if mark.milestone == "took"]
        same_clock = instance.boundary != "vm"
        delays = delivery_ns(sent, same_clock=same_clock)
        if took and delays:
            emit(Measurement(WRITE, round(median(took))))
            clock = "shared" if same_clock else "relative to the quickest"
            emit(Measurement(DELIVERY, round(median(delays)), {"clock": clock}))
        else:
            emit(Absent(WRITE, "no calibration mark arrived"))
            emit(Absent(DELIVERY, "no calibration mark arrived"))

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """What the harness itself brought about (the end of a server) is no milestone of the workload."""
        seen = {mark.milestone: mark.at_ns for mark in reversed(instance.marks)}
        stopping_ns = seen.get(STOPPING)
        for name, metric in MILESTONES.items():
            if name in seen and (stopping_ns is None or seen[name] < stopping_ns):
                emit(Measurement(metric, seen[name] - seen[REQUESTED]))
            else:
                reason = _ABSENT.get((name, instance.boundary)) or _NEVER.get(name) or "this trial did not get that far"
                emit(Absent(metric, reason))
        if stopping_ns is not None and DELETED in seen:
            emit(Measurement(STOP, seen[DELETED] - stopping_ns))
        else:
            emit(Absent(STOP, "this trial did not get that far"))


PLUGIN = StartupProbe()

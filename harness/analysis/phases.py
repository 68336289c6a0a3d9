"""What a start is made of: the time from each milestone to the next one that this runtime has, with a name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.statistics import median
from harness.model.milestones import (
    ANSWER,
    DECOMPRESS,
    DRIVERS,
    EXEC,
    HANDOVER,
    INIT,
    INITRAMFS,
    KERNEL,
    LADDER,
    OCI_EXEC,
    OCI_START,
    READY,
    REQUESTED,
    ROOT,
    RUNTIME_EXEC,
    SHIM_EXEC,
    VCPU,
    VMM_EXEC,
)
from harness.model.records import TrialRecord

# `firmware`, its first byte, comes within the channel's latency of `vcpu` and would only cut a phase in two.
_STEPS = tuple(name for name in LADDER[: LADDER.index(ANSWER)] if name != "firmware")
_NAMES = {
    RUNTIME_EXEC: "launcher",
    SHIM_EXEC: "client, engine",
    OCI_EXEC: "shim",
    OCI_START: "create",
    VMM_EXEC: "VMM",
    VCPU: "machine",
    HANDOVER: "firmware",
    DECOMPRESS: "load kernel",
    KERNEL: "firmware, load kernel",
    INITRAMFS: "kernel",
    INIT: "kernel, initramfs",
    DRIVERS: "drivers",
    ROOT: "root mount",
    EXEC: "init",
    READY: "exec to ready",
}
_NAMES_AFTER = {
    (DECOMPRESS, KERNEL): "decompression",
    (HANDOVER, KERNEL): "load kernel",
    (INITRAMFS, INIT): "initramfs",
    (RUNTIME_EXEC, INIT): "isolation, root mount",
    (REQUESTED, INIT): "process",
    (REQUESTED, SHIM_EXEC): "engine",
    (OCI_EXEC, INIT): "create, start",
    (OCI_START, INIT): "start",
}
DOCS = {
    "launcher": "the launcher is started",
    "isolation, root mount": "the launcher makes namespaces, cgroup, mounts and filters, and becomes the agent",
    "client, engine": "the command line asks the engine, which makes the container's root and has its helper started",
    "engine": "the engine makes the container's root and has its helper started",
    "shim": "the helper makes itself ready and has the OCI runtime started",
    "create": "the OCI runtime makes namespaces, cgroup, mounts and filters, and the engine connects it",
    "start": "the OCI runtime has the container's first process executed, which is the agent",
    "create, start": "the OCI runtime makes the container and becomes the agent",
    "process": "the agent is started",
    "VMM": "libvirt starts QEMU, which opens its channels",
    "machine": "QEMU builds the machine, libvirt lets it run",
    "firmware": "the firmware runs",
    "load kernel": "the firmware's last step: it reads the kernel and jumps into it",
    "firmware, load kernel": "a firmware without a log runs, and the kernel is read",
    "decompression": "the kernel unpacks itself",
    "kernel": "the kernel finds its devices, until it turns to the initramfs",
    "initramfs": "the initramfs is unpacked while the kernel goes on, until it runs the agent",
    "kernel, initramfs": "the kernel finds its devices, unpacks the initramfs and runs the agent",
    "drivers": "the agent loads the drivers of the guest's devices",
    "root mount": "the agent mounts the image and moves into it",
    "init": "the agent makes all ready for the workload",
    "exec to ready": "the workload is executed and gets ready",
}


@dataclass(frozen=True, slots=True)
class Phase:
    """From `begin_ns` to `end_ns` since `requested` (medians of both); it ends with the milestone `end`."""

    name: str
    end: str
    begin_ns: float
    end_ns: float

    @property
    def length_ns(self) -> float:
        return self.end_ns - self.begin_ns


def of_marks(marks: Mapping[str, float]) -> list[Phase]:
    """Return the phases of one start, or of the medians of many; `marks` in ns since `requested`.

    Where two marks came in the other order, by no more than what the channel delays, the phase between has length 0.
    """
    found: list[Phase] = []
    before, begin_ns = REQUESTED, 0.0
    for name in _STEPS[1:]:
        if name not in marks:
            continue
        end_ns = max(begin_ns, float(marks[name]))
        found.append(Phase(_NAMES_AFTER.get((before, name), _NAMES[name]), name, begin_ns, end_ns))
        before, begin_ns = name, end_ns
    return found


def milestones(records: Sequence[TrialRecord], runtime: str) -> dict[str, float]:
    """Return the median time of each milestone since `requested`, in ns, in the order of the ladder, up to ready."""
    own = [r for r in records if r.spec.runtime == runtime and r.status == "ok" and not r.spec.warmup]
    names = LADDER[1 : LADDER.index(ANSWER)]
    found = {name: [float(r.marks[name]) for r in own if name in r.marks] for name in names}
    return {name: median(times) for name, times in found.items() if times}


def of_runtime(records: Sequence[TrialRecord], runtime: str) -> list[Phase]:
    """Return the phases of a runtime's start, between the medians of its milestones; empty without any."""
    return of_marks(milestones(records, runtime))


def channel_ns(records: Sequence[TrialRecord], runtime: str) -> float | None:
    """Return by how much marks of this runtime reached the host late, the median of its trials; None: not measured."""
    own = [
        float(r.metrics["marker.delivery"].value)
        for r in records
        if r.spec.runtime == runtime and r.status == "ok" and "marker.delivery" in r.metrics
    ]
    return median(own) if own else None

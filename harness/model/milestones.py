"""The ladder of a start, in the order in which the milestones can happen; all stamped by one host clock."""

from __future__ import annotations

from dataclasses import dataclass

REQUESTED = "requested"
RUNTIME_EXEC = "runtime.exec"
SHIM_EXEC = "shim.exec"
OCI_EXEC = "oci.exec"
OCI_START = "oci.start"
VMM_EXEC = "vmm.exec"
VCPU = "vcpu"
FIRMWARE = "firmware"
HANDOVER = "handover"
DECOMPRESS = "decompress"
KERNEL = "kernel"
INITRAMFS = "initramfs"
INIT = "init"
DRIVERS = "drivers"
ROOT = "root"
RETURNED = "returned"
EXEC = "exec"
READY = "ready"
ANSWER = "answer"
EXITED = "exited"
OOM = "oom"
STOPPING = "stopping"
DELETED = "deleted"

LADDER = (
    REQUESTED, RUNTIME_EXEC, SHIM_EXEC, OCI_EXEC, OCI_START, VMM_EXEC, VCPU, FIRMWARE, HANDOVER, DECOMPRESS, KERNEL,
    INITRAMFS, INIT, DRIVERS, ROOT, EXEC, READY, ANSWER, EXITED, STOPPING, DELETED,
)  # fmt: skip

DOCS = {
    REQUESTED: "the harness asks for the instance; every other milestone counts from here",
    RUNTIME_EXEC: "the runtime's launcher runs its first instruction",
    SHIM_EXEC: "the engine's helper that watches the container (containerd's shim, conmon) is executed",
    OCI_EXEC: "the OCI runtime (runc, crun) is executed, to create the container",
    OCI_START: "the OCI runtime is executed again, to start what it created",
    VMM_EXEC: "the VMM's main() has opened its marker channel",
    VCPU: "the guest's first instruction, from its time stamp counter as read with the mark of least delay",
    FIRMWARE: "the firmware writes its first byte",
    HANDOVER: "the firmware writes its last byte: it gives the machine to the kernel",
    DECOMPRESS: "the kernel's own decompressor opens its console",
    KERNEL: "the guest kernel writes its first message",
    INITRAMFS: "the kernel says that it unpacks the initramfs",
    INIT: "the agent is pid 1 (in a process: has started)",
    DRIVERS: "the guest's agent has loaded the drivers of its devices",
    ROOT: "the guest's agent has mounted its root and moved into it",
    RETURNED: "the call that starts the instance has returned to the harness",
    EXEC: "the agent is about to execve the workload",
    READY: "the workload's readiness condition holds",
    ANSWER: "the workload gave its first useful response",
    EXITED: "the workload has ended by itself",
    OOM: "the guest's kernel has killed the workload, or what belongs to it, for want of memory",
    STOPPING: "the harness asks the instance to end",
    DELETED: "every process, mount, cgroup and file of the instance is gone",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A milestone reached the host at `at_ns` (CLOCK_MONOTONIC, ns).

    `inside_ns` is the sender's own clock at that moment (the host's CLOCK_MONOTONIC in a container, the guest's in
    a VM; never subtracted from a host time in a VM), None where the sender has none. `detail` is the mark's argument.
    `ticks` is a guest's time stamp counter; `instructions` the same where QEMU counts instructions and shows them so.
    Of a process or container whose start is counted, `calls` and `instructions` are those of all of it up to the mark.
    """

    milestone: str
    at_ns: int
    detail: str = ""
    inside_ns: int | None = None
    ticks: int | None = None
    instructions: int | None = None
    calls: int | None = None

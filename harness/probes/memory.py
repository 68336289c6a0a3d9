"""A ledger of an instance's memory, one line an account: host processes, cgroup, inside, and what the host got back.

All is read when the instance is ready, and the host once more when it is gone: `memory.host` is the difference. What
the accounts do not explain of that is told as `memory.unexplained`. See docs/memory.md for how the lines add up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.host import memory as host
from harness.interfaces import CgroupMemory, Emit, Instance, Json
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit


def _metric(name: str, doc: str, better: Better = Better.LOWER) -> Metric:
    return Metric(f"memory.{name}", Unit.BYTES, better, doc)


HOST = _metric("host", "memory of the host that was free again when it had gone; page cache not counted, tmpfs counted")
UNEXPLAINED = _metric(
    "unexplained", "memory.host without what its cgroup (or, where it has none, its processes) was charged",
    Better.NEITHER,
)  # fmt: skip
PSS = _metric(
    "pss", "proportional set size of all host processes of the instance, the VMM included; no page counts twice"
)
USS = _metric("uss", "pages that only the instance's host processes map: what ending it would free at least")
RSS = _metric("rss", "resident set size of the same processes; shared pages count once for each of them")
HELPERS = _metric("helpers", "of memory.pss, the processes that only serve it: virtiofsd, fuse-overlayfs, shims")
GUEST_RAM = _metric("guest_ram", "resident part of the mapping that is the guest's RAM")
GUEST_IDLE = _metric("guest_ram.idle", "of that, what the guest's kernel has free: touched once, and kept by the host")
VMM = _metric("vmm", "what only the VMM maps, without the guest's RAM: its heap, translated code and devices")
VMM_CODE = _metric("vmm.code", "of memory.vmm, code that the emulation has translated; 0 with KVM")
CGROUP_ANON = _metric("cgroup.anon", "anonymous memory charged to the instance's cgroup")
CGROUP_FILE = _metric("cgroup.file", "page cache and tmpfs charged to the cgroup; a page is charged to its first user")
CGROUP_SHMEM = _metric("cgroup.shmem", "of memory.cgroup.file, tmpfs and shared memory: what no reclaim gives back")
CGROUP_KERNEL = _metric("cgroup.kernel", "kernel memory charged to the cgroup (stacks, slab, page tables)")
CGROUP_PEAK = _metric("cgroup.peak", "highest charge of the cgroup so far")
INSIDE_TOTAL = _metric("inside.total", "MemTotal as the workload sees it", Better.NEITHER)
INSIDE_AVAILABLE = _metric("inside.available", "MemAvailable as the workload sees it", Better.HIGHER)
INSIDE_RESERVED = _metric("inside.reserved", "RAM that the guest's kernel took before it counts: RAM less MemTotal")
INSIDE_KERNEL = _metric("inside.kernel", "Slab, KernelStack, PageTables and Percpu of the guest's own kernel")
INSIDE_ANON = _metric("inside.anon", "AnonPages of the guest")
INSIDE_CACHE = _metric("inside.cache", "Cached and Buffers of the guest, its tmpfs included")

_OF_GUEST = (GUEST_RAM, GUEST_IDLE, VMM, VMM_CODE)
_OF_OWN_KERNEL: Mapping[Metric, tuple[str, ...]] = {
    INSIDE_KERNEL: ("Slab", "KernelStack", "PageTables", "Percpu"),
    INSIDE_ANON: ("AnonPages",),
    INSIDE_CACHE: ("Cached", "Buffers"),
}
_NO_VMM = "no VMM: it runs on the host's kernel"


@dataclass(frozen=True, slots=True)
class _AtReady:
    """What the end needs of what was read when the instance was ready."""

    used_bytes: int
    explained_bytes: int | None
    by: str


def helpers(instance: Instance) -> tuple[int, ...]:
    """Return those of its processes that only serve it.

    Of a container, whatever is not in the mount namespace of its first process; of a VM, all but the VMM.
    """
    pids = instance.pids()
    if instance.boundary == "vm":
        return pids[1:]
    if instance.boundary != "container" or not pids:
        return ()
    inside = _mounts_of(pids[0])
    return tuple(pid for pid in pids[1:] if inside and _mounts_of(pid) not in {inside, None})


def _mounts_of(pid: int) -> Path | None:
    """Return the mount namespace of a process, None when it has ended."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").readlink()
    except OSError:
        return None


def _emit_processes(instance: Instance, emit: Emit) -> host.Sizes | None:
    pids = instance.pids()
    if not pids:
        for metric in (PSS, USS, RSS, HELPERS):
            emit(Absent(metric, "no host process of this instance is known"))
        return None
    sizes, serving = host.read_sizes(pids), helpers(instance)
    labels = {"processes": str(len(pids))}
    emit(Measurement(PSS, sizes.pss, labels))
    emit(Measurement(USS, sizes.uss, labels))
    emit(Measurement(RSS, sizes.rss, labels))
    emit(Measurement(HELPERS, host.read_sizes(serving).pss, {"processes": str(len(serving))}))
    return sizes


def _emit_vmm(instance: Instance, seen: Mapping[str, Json], emit: Emit) -> None:
    """Split the VMM's memory by its mappings. QEMU maps a guest's RAM as one block of exactly its size."""
    if instance.boundary != "vm" or not instance.pids():
        for metric in _OF_GUEST:
            emit(Absent(metric, _NO_VMM if instance.boundary != "vm" else "no host process of this instance is known"))
        return
    mappings = host.read_smaps(instance.pids()[0])
    ram = next((mapping for mapping in mappings if mapping.size_bytes == instance.memory_bytes), None)
    if ram is None:
        for metric in _OF_GUEST:
            emit(Absent(metric, "no mapping of the VMM has the size of the guest's RAM"))
        return
    others = [mapping for mapping in mappings if mapping is not ram]
    emit(Measurement(GUEST_RAM, ram.sizes.rss))
    emit(Measurement(VMM, sum(mapping.sizes.uss for mapping in others)))
    emit(Measurement(VMM_CODE, sum(mapping.sizes.uss for mapping in others if mapping.executable and not mapping.file)))
    free = seen.get("MemFree")
    if isinstance(free, int):
        emit(Measurement(GUEST_IDLE, max(0, ram.sizes.rss - (instance.memory_bytes - free))))
    else:
        emit(Absent(GUEST_IDLE, "/proc/meminfo inside has no MemFree"))


def _emit_cgroup(memory: CgroupMemory | None, emit: Emit) -> None:
    values = {
        CGROUP_ANON: memory.anon_bytes if memory else None,
        CGROUP_FILE: memory.file_bytes if memory else None,
        CGROUP_SHMEM: memory.shmem_bytes if memory else None,
        CGROUP_KERNEL: memory.kernel_bytes if memory else None,
        CGROUP_PEAK: memory.peak_bytes if memory else None,
    }
    for metric, value in values.items():
        if value is None:
            emit(
                Absent(metric, "this host's memory cgroup does not tell" if memory else "no memory cgroup for it here")
            )
        else:
            emit(Measurement(metric, value))


def _emit_inside(instance: Instance, seen: Mapping[str, Json], emit: Emit) -> None:
    for metric, key in ((INSIDE_TOTAL, "MemTotal"), (INSIDE_AVAILABLE, "MemAvailable")):
        value = seen.get(key)
        told = isinstance(value, int)
        emit(Measurement(metric, int(value)) if told else Absent(metric, f"/proc/meminfo inside has no {key}"))  # type: ignore[arg-type]
    if instance.boundary != "vm":
        for metric in (INSIDE_RESERVED, *_OF_OWN_KERNEL):
            emit(Absent(metric, "it sees the host's memory, not its own"))
        return
    total = seen.get("MemTotal")
    known = isinstance(total, int)
    reserved = instance.memory_bytes - total if isinstance(total, int) else 0
    emit(Measurement(INSIDE_RESERVED, reserved) if known else Absent(INSIDE_RESERVED, "no MemTotal inside"))
    for metric, keys in _OF_OWN_KERNEL.items():
        values = [value for key in keys if isinstance(value := seen.get(key), int)]
        missing = len(values) < len(keys)
        emit(Absent(metric, f"no {' or '.join(keys)} inside") if missing else Measurement(metric, sum(values)))


def own_bytes(memory: CgroupMemory | None) -> int | None:
    """Return what goes with the instance, by its cgroup: anonymous, tmpfs and kernel memory, each once.

    None where there is no cgroup, or one that does not tell; kernel memory alone counts as 0 where it does not.
    """
    if memory is None or memory.anon_bytes is None or memory.shmem_bytes is None:
        return None
    return memory.anon_bytes + memory.shmem_bytes + (memory.kernel_bytes or 0)


def _explained(memory: CgroupMemory | None, sizes: host.Sizes | None) -> tuple[int | None, str]:
    """Return what is known to be the instance's own, and by whom."""
    own = own_bytes(memory)
    if own is not None and memory is not None:
        return own, "its cgroup" if memory.kernel_bytes is not None else "its cgroup, without kernel memory"
    return (sizes.uss, "its processes") if sizes is not None else (None, "")


class MemoryProbe:
    name = "memory"
    doc = "host processes, guest RAM and VMM, cgroup charges, the view from inside, and what the host got back"
    metrics = (
        PSS, USS, RSS, HELPERS, HOST, UNEXPLAINED, GUEST_RAM, GUEST_IDLE, VMM, VMM_CODE, CGROUP_ANON, CGROUP_FILE,
        CGROUP_SHMEM, CGROUP_KERNEL, CGROUP_PEAK, INSIDE_TOTAL, INSIDE_AVAILABLE, INSIDE_RESERVED, INSIDE_KERNEL,
        INSIDE_ANON, INSIDE_CACHE,
    )  # fmt: skip

    def __init__(self) -> None:
        self._at_ready: dict[int, _AtReady] = {}

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """Ask inside first: a guest opens its console for that, and the host reads a quiet guest afterwards."""
        seen = instance.inside().get("memory_bytes")
        inside: Mapping[str, Json] = seen if isinstance(seen, dict) else {}
        sizes = _emit_processes(instance, emit)
        _emit_vmm(instance, inside, emit)
        memory = instance.cgroup_memory()
        _emit_cgroup(memory, emit)
        _emit_inside(instance, inside, emit)
        explained, by = _explained(memory, sizes)
        self._at_ready[id(instance)] = _AtReady(host.read_host().used_bytes, explained, by)
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Read the host again, now that nothing of the instance is left."""
        before = self._at_ready.pop(id(instance), None)
        if before is None:  # it was never ready: the trial has failed, and its record says so of every metric
            return
        came_back = before.used_bytes - host.read_host().used_bytes
        emit(Measurement(HOST, came_back, {"cpus": str(os.cpu_count())}))
        if before.explained_bytes is None:
            emit(Absent(UNEXPLAINED, "neither a cgroup nor a process of it is known"))
        else:
            emit(Measurement(UNEXPLAINED, came_back - before.explained_bytes, {"explained by": before.by}))


PLUGIN = MemoryProbe()

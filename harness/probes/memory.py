"""A ledger of an instance's memory, one line an account, read when it is ready: host processes, cgroup, inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.interfaces import CgroupMemory, Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit

_KIB = 1024


def _metric(name: str, doc: str, better: Better = Better.LOWER) -> Metric:
    return Metric(f"memory.{name}", Unit.BYTES, better, doc)


PSS = _metric(
    "pss", "proportional set size of all host processes of the instance, the VMM included; no page counts twice"
)
USS = _metric("uss", "pages that only the instance's host processes map: what ending it would free at least")
RSS = _metric("rss", "resident set size of the same processes; shared pages count once for each of them")
GUEST_RAM = _metric("guest_ram", "resident part of the mapping that is the guest's RAM")
VMM = _metric("vmm", "USS without the guest's RAM: the VMM's own heap, code cache and devices")
CGROUP_ANON = _metric("cgroup.anon", "anonymous memory charged to the instance's cgroup")
CGROUP_FILE = _metric("cgroup.file", "page cache and tmpfs charged to the cgroup; a page is charged to its first user")
CGROUP_KERNEL = _metric("cgroup.kernel", "kernel memory charged to the cgroup (stacks, slab, page tables)")
CGROUP_PEAK = _metric("cgroup.peak", "highest charge of the cgroup so far")
INSIDE_TOTAL = _metric("inside.total", "MemTotal as the workload sees it", Better.NEITHER)
INSIDE_AVAILABLE = _metric("inside.available", "MemAvailable as the workload sees it", Better.HIGHER)

_SIZES = {"Pss": "pss", "Rss": "rss", "Private_Clean": "uss", "Private_Dirty": "uss", "Private_Hugetlb": "uss"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sums over processes, bytes."""

    pss: int = 0
    rss: int = 0
    uss: int = 0

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.pss + other.pss, self.rss + other.rss, self.uss + other.uss)


def parse_rollup(text: str) -> Sizes:
    """Return the sizes in a /proc/PID/smaps_rollup (Linux 4.14+; its unit kB is 1024 bytes)."""
    totals = {"pss": 0, "rss": 0, "uss": 0}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key in _SIZES:
            totals[_SIZES[key]] += int(rest.split()[0]) * _KIB
    return Sizes(**totals)


def parse_guest_ram_bytes(smaps: str, guest_memory_bytes: int) -> int | None:
    """Return the resident bytes of the mapping that has exactly the guest's size, None when there is none.

    Source: /proc/PID/smaps; QEMU maps a guest's RAM as one block of its size (memory-backend-ram).
    """
    inside = False
    for line in smaps.splitlines():
        key, _, rest = line.partition(":")
        if key == "Size":
            inside = int(rest.split()[0]) * _KIB == guest_memory_bytes
        elif inside and key == "Rss":
            return int(rest.split()[0]) * _KIB
    return None


def read_sizes(pids: tuple[int, ...]) -> Sizes:
    """Return the sums over `pids`; a process that has ended meanwhile holds no memory and counts nothing."""
    total = Sizes()
    for pid in pids:
        try:
            total += parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def _emit_processes(instance: Instance, emit: Emit) -> Sizes | None:
    pids = instance.pids()
    if not pids:
        for metric in (PSS, USS, RSS):
            emit(Absent(metric, "no host process of this instance is known"))
        return None
    sizes = read_sizes(pids)
    labels = {"processes": str(len(pids))}
    emit(Measurement(PSS, sizes.pss, labels))
    emit(Measurement(USS, sizes.uss, labels))
    emit(Measurement(RSS, sizes.rss, labels))
    return sizes


def _emit_vmm(instance: Instance, sizes: Sizes | None, emit: Emit) -> None:
    if instance.boundary != "vm" or sizes is None:
        for metric in (GUEST_RAM, VMM):
            emit(Absent(metric, "no VMM: it runs on the host's kernel"))
        return
    ram = None
    for pid in instance.pids():
        ram = ram or parse_guest_ram_bytes(Path(f"/proc/{pid}/smaps").read_text(), instance.memory_bytes)
    if ram is None:
        for metric in (GUEST_RAM, VMM):
            emit(Absent(metric, "no mapping of the VMM has the size of the guest's RAM"))
        return
    emit(Measurement(GUEST_RAM, ram))
    emit(Measurement(VMM, max(0, sizes.uss - ram)))


def _emit_cgroup(memory: CgroupMemory | None, emit: Emit) -> None:
    values = {
        CGROUP_ANON: memory.anon_bytes if memory else None,
        CGROUP_FILE: memory.file_bytes if memory else None,
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


class MemoryProbe:
    name = "memory"
    doc = "host processes (PSS, USS, RSS), guest RAM and VMM, cgroup charges, and the view from inside"
    metrics = (
        PSS, USS, RSS, GUEST_RAM, VMM, CGROUP_ANON, CGROUP_FILE, CGROUP_KERNEL, CGROUP_PEAK,
        INSIDE_TOTAL, INSIDE_AVAILABLE,
    )  # fmt: skip

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        """Ask inside first: a guest opens its console for that, and the host reads a quiet guest afterwards."""
        inside = instance.inside()
        sizes = _emit_processes(instance, emit)
        _emit_vmm(instance, sizes, emit)
        _emit_cgroup(instance.cgroup_memory(), emit)
        seen = inside.get("memory_bytes")
        for metric, key in ((INSIDE_TOTAL, "MemTotal"), (INSIDE_AVAILABLE, "MemAvailable")):
            value = seen.get(key) if isinstance(seen, dict) else None
            if isinstance(value, int):
                emit(Measurement(metric, value))
            else:
                emit(Absent(metric, f"/proc/meminfo inside has no {key}"))
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was read while it ran."""


PLUGIN = MemoryProbe()

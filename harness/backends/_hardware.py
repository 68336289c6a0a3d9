"""What a guest's machine is made of, as far as a scenario may choose it, and the domain XML of it. Pure.

Everything here has the default that the harness had before there was a choice: the least that runs the workload.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Firmware = Literal["seabios", "qboot"]
Console = Literal["none", "serial"]
DiskBus = Literal["virtio", "scsi", "sata"]
DiskCache = Literal["writeback", "writethrough", "none", "directsync", "unsafe"]
DiskIo = Literal["threads", "native", "io_uring"]
NicModel = Literal["virtio", "e1000", "e1000e"]

DIRECT_CACHES = ("none", "directsync")
"""Modes that open the file with O_DIRECT: what Linux AIO (`native`) needs."""

DISK_MODULES: dict[DiskBus, tuple[str, ...]] = {
    "virtio": ("virtio_blk",),
    "scsi": ("virtio_scsi", "sd_mod"),
    "sata": ("ahci", "sd_mod"),
}
NIC_MODULES: dict[NicModel, tuple[str, ...]] = {"virtio": ("virtio_net",), "e1000": ("e1000",), "e1000e": ("e1000e",)}


@dataclass(frozen=True, slots=True)
class Hardware:
    """A guest's levers. `firmware` is the file that replaces QEMU's own (a SeaBIOS), None leaves it.

    `cpu`: a CPU model of libvirt's, `host`, `max`, or None: the host's under KVM, QEMU's plainest under emulation.
    `legacy_timers` False takes PIT and PIC from a microvm. `tcg_cache_bytes`: room for translated code, None leaves it
    to QEMU. `mergeable`: the host may merge its pages with equal ones of others. `balloon_bytes`: to what size the
    guest shall shrink when it is ready; `free_page_reporting`: it tells the host which pages it does not use.
    """

    firmware: str | None = None
    console: Console = "none"
    cpu: str | None = None
    hugepages: bool = False
    prealloc: bool = False
    tcg_cache_bytes: int | None = None
    disk_bus: DiskBus = "virtio"
    disk_cache: DiskCache = "writeback"
    disk_io: DiskIo = "threads"
    nic: NicModel = "virtio"
    legacy_timers: bool = True
    mergeable: bool = True
    balloon_bytes: int | None = None
    free_page_reporting: bool = False

    @property
    def has_balloon(self) -> bool:
        return self.balloon_bytes is not None or self.free_page_reporting


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    """Return a new child of `parent`."""
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def add_memory_backing(domain: ET.Element, hardware: Hardware, *, shared: bool) -> None:
    """`shared`: a virtiofsd reads and writes the guest's memory, which must be a file of its own then."""
    if not (shared or hardware.hugepages or hardware.prealloc) and hardware.mergeable:
        return
    backing = add(domain, "memoryBacking")
    if hardware.hugepages:
        add(backing, "hugepages")
    if not hardware.mergeable:
        add(backing, "nosharepages")
    if shared:
        add(backing, "source", type="memfd")
        add(backing, "access", mode="shared")
    if hardware.prealloc:
        add(backing, "allocation", mode="immediate")


def add_memory(domain: ET.Element, hardware: Hardware, memory_bytes: int) -> None:
    """libvirt has a guest's balloon take the difference as soon as the guest has a driver for it."""
    add(domain, "memory", str(memory_bytes // 1024), unit="KiB")
    if hardware.balloon_bytes is not None:
        add(domain, "currentMemory", str(min(hardware.balloon_bytes, memory_bytes) // 1024), unit="KiB")


def add_balloon(devices: ET.Element, hardware: Hardware, place: Callable[[ET.Element], None]) -> None:
    """Add the balloon, on the bus that `place` gives it, or say that there is none: else libvirt adds one."""
    if not hardware.has_balloon:
        add(devices, "memballoon", model="none")
        return
    reports = {"freePageReporting": "on"} if hardware.free_page_reporting else {}
    place(add(devices, "memballoon", model="virtio", **reports))


def add_cpu(domain: ET.Element, hardware: Hardware, *, kvm: bool) -> None:
    """Without one QEMU takes its plainest model, which under KVM is never what people run."""
    wanted = hardware.cpu or ("host" if kvm else None)
    if wanted in {"host", "max"}:
        add(domain, "cpu", mode="host-passthrough" if wanted == "host" else "maximum")
    elif wanted is not None:
        cpu = add(domain, "cpu", mode="custom", match="exact", check="none")
        add(cpu, "model", wanted, fallback="forbid")


def add_features(domain: ET.Element, hardware: Hardware) -> None:
    """ACPI also on a microvm: Debian's kernel finds virtio-mmio only through it."""
    features = add(domain, "features")
    add(features, "acpi")
    if hardware.tcg_cache_bytes is not None:
        add(add(features, "tcg"), "tb-cache", str(hardware.tcg_cache_bytes >> 20), unit="MiB")

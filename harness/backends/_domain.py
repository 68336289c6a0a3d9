"""The libvirt domain of one guest, as data and as XML. Pure: nothing here talks to libvirt."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.backends._hardware import (
    DiskBus,
    Hardware,
    add_balloon,
    add_cpu,
    add_features,
    add_memory,
    add_memory_backing,
)
from harness.backends._hardware import add as _add

Machine = Literal["q35", "pc", "microvm"]
Accelerator = Literal["kvm", "tcg"]

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
METADATA_NAMESPACE = "https://vm-container-harness/domain/1"
MARKS_PORT = 0xE9
FIRMWARE_PORT = 0x402  # where SeaBIOS writes its log (CONFIG_DEBUG_IO)
CHANNELS = ("stdout", "stderr", "control")
CONSOLE = "console"  # file of the first serial port, beside the sockets
SPEC_SERIAL = "harness-spec"
ICOUNT_ARGV = ("-icount", "shift=0,sleep=off")
"""One instruction is 1 ns of the guest's clocks, and a guest that waits for a timer has reached it at once."""


@dataclass(frozen=True, slots=True)
class Nic:
    """A guest's network interface: the tap behind it, which exists already, and whether vhost-net moves its packets."""

    tap: str
    mac: str
    vhost: bool


DiskFormat = Literal["raw", "qcow2", "vmdk"]
ShareKind = Literal["virtiofs", "9p"]


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk. `serial`, at most 20 bytes, is the name by which the guest finds it; the root's is the first disk."""

    path: Path
    format: DiskFormat = "raw"
    read_only: bool = True
    serial: str = ""
    bus: DiskBus = "virtio"


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host that a guest mounts by `tag`. `program`: the virtiofsd that libvirt starts for it."""

    kind: ShareKind
    tag: str
    source: Path
    read_only: bool = False
    program: Path | None = None


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """One guest. `sockets` is the directory in which the harness listens: marks, firmware and one per channel.

    `icount`: QEMU counts the guest's instructions and shows their number as its clocks; only emulation can. `tsc_khz`:
    how fast the guest's time stamp counter runs, where it starts with the vCPU.
    `by_daemon`: another process starts QEMU, which is no child of ours then. `owner`: whom that daemon shall run QEMU
    as ("+UID:+GID"); None leaves it to libvirt's configuration. `restarts`: a reset starts the guest
    again; otherwise it ends it.
    """

    name: str
    token: str
    machine: Machine
    accelerator: Accelerator
    emulator: str
    kernel: Path | None
    initrd: Path
    cmdline: str
    disks: tuple[Disk, ...]
    sockets: Path
    memory_bytes: int
    vcpus: int
    nic: Nic | None = None
    shares: tuple[Share, ...] = ()
    fast_start: bool = True
    icount: bool = False
    tsc_khz: int | None = None
    by_daemon: bool = False
    owner: str | None = None
    restarts: bool = False
    snapshot: str | None = None
    """It begins from this snapshot, which is inside its first disk."""
    hardware: Hardware = field(default_factory=Hardware)

    @property
    def domain_type(self) -> str:
        """As libvirt calls the accelerator."""
        return "kvm" if self.accelerator == "kvm" else "qemu"


def kernel_cmdline(
    machine: Machine,
    accelerator: Accelerator,
    *,
    tsc_khz: int | None,
    extra: str = "",
    self_tests: bool = False,
    serial: bool = False,
) -> str:
    """Return the guest kernel's command line.

    `earlyprintk=serial,0xe9` lets the kernel's first messages, and with `keep` a panic, appear on the marks channel;
    `loglevel=6` has it write its banner there, and the agent silences it later. `cryptomgr.notests` skips self-tests
    and `noreplace-smp` a rewriting of kernel code that say nothing about starting a workload (Kata Containers sets
    both); with `self_tests` neither is given. Nothing here changes mitigations or hardening. A microvm under TCG has no
    other clock to calibrate the TSC against and may hang without the two tsc options. Where many guests are emulated at
    once, timer interrupts come too late for the kernel's check of its timer, and it panics: without the check it is as
    in a KVM guest (arch/x86/kernel/kvm.c, kvm_guest_init). `serial` has all messages of the
    kernel on the first serial port besides, as a distribution's default has them on a screen.
    """
    early = f"earlyprintk=serial,{MARKS_PORT:#x},115200,keep"
    words = [early, "loglevel=6", "panic=-1", *(() if self_tests else ("cryptomgr.notests", "noreplace-smp"))]
    words += ["no_timer_check"] if accelerator == "tcg" else []
    words += ["console=ttyS0"] if serial else []
    if machine == "microvm" and accelerator == "tcg" and tsc_khz:
        words += [f"tsc_early_khz={tsc_khz}", "tsc=reliable"]
    return " ".join([*words, *extra.split()])


def _mmio(device: ET.Element, guest: GuestSpec) -> None:
    """A microvm has no PCI bus: every virtio device must ask for virtio-mmio (libvirt: "No PCI buses available")."""
    if guest.machine == "microvm":
        _add(device, "address", type="virtio-mmio")


def _add_debug_port(devices: ET.Element, path: Path, port: int) -> None:
    serial = _add(devices, "serial", type="unix")
    _add(serial, "source", mode="connect", path=str(path))
    _add(_add(serial, "target", type="isa-debug"), "model", name="isa-debugcon")
    _add(serial, "address", type="isa", iobase=f"{port:#x}")


def _add_console(devices: ET.Element, path: Path) -> None:
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=str(path))
    _add(_add(serial, "target", type="isa-serial", port="0"), "model", name="isa-serial")


def _add_nic(devices: ET.Element, nic: Nic, guest: GuestSpec) -> None:
    """`managed="no"`: libvirt opens this tap in the network namespace of the thread that starts the guest, no more."""
    interface = _add(devices, "interface", type="ethernet")
    _add(interface, "mac", address=nic.mac)
    _add(interface, "target", dev=nic.tap, managed="no")
    model = guest.hardware.nic
    _add(interface, "model", type=model)
    if model == "virtio":
        _add(interface, "driver", name="vhost" if nic.vhost else "qemu")
    if guest.machine != "microvm":
        _add(interface, "rom", enabled="no")  # nothing boots from the network: the firmware need not load iPXE
    if model == "virtio":
        _mmio(interface, guest)


def _disk_name(number: int, bus: DiskBus) -> str:
    """Return vda, ..., vdz, vdaa, ... or sda, ...: libvirt wants names; a guest may see others."""
    letters = chr(ord("a") + number % 26)
    kind = "vd" if bus == "virtio" else "sd"
    return f"{kind}{chr(ord('a') + number // 26 - 1) if number >= 26 else ''}{letters}"


def _add_disk(devices: ET.Element, disk: Disk, number: int, guest: GuestSpec) -> None:
    """By default `writeback`: the host's page cache, which fsync in the guest passes, as with a container's files."""
    element = _add(devices, "disk", type="file", device="disk")
    _add(
        element, "driver",
        name="qemu", type=disk.format, cache=guest.hardware.disk_cache,
        **({} if guest.hardware.disk_io == "threads" else {"io": guest.hardware.disk_io}),
    )  # fmt: skip
    _add(element, "source", file=str(disk.path))
    _add(element, "target", dev=_disk_name(number, disk.bus), bus=disk.bus)
    if disk.read_only:
        _add(element, "readonly")
    if disk.serial:
        _add(element, "serial", disk.serial)
    if disk.bus == "virtio":
        _mmio(element, guest)


def _add_share(devices: ET.Element, share: Share, guest: GuestSpec) -> None:
    """virtiofs has no read-only mode in libvirt 9: its program sees a read-only mount then (`_shares.py`)."""
    element = _add(devices, "filesystem", type="mount", accessmode="passthrough")
    _add(element, "driver", type="virtiofs" if share.kind == "virtiofs" else "path")
    if share.program is not None:
        _add(element, "binary", path=str(share.program))
    _add(element, "source", dir=str(share.source))
    _add(element, "target", dir=share.tag)
    if share.read_only and share.kind == "9p":
        _add(element, "readonly")
    _mmio(element, guest)


def _add_devices(domain: ET.Element, guest: GuestSpec) -> None:
    devices = _add(domain, "devices")
    _add(devices, "emulator", guest.emulator)
    for number, disk in enumerate(guest.disks):
        _add_disk(devices, disk, number, guest)
    if guest.kernel is None:
        _add_disk(devices, Disk(guest.initrd, serial=SPEC_SERIAL), len(guest.disks), guest)
    if any(disk.bus == "scsi" for disk in guest.disks):
        _mmio(_add(devices, "controller", type="scsi", index="0", model="virtio-scsi"), guest)
    for share in guest.shares:
        _add_share(devices, share, guest)
    if guest.nic is not None:
        _add_nic(devices, guest.nic, guest)
    _add(devices, "controller", type="usb", model="none")
    if guest.hardware.console == "serial":
        _add_console(devices, guest.sockets / CONSOLE)
    _add_debug_port(devices, guest.sockets / "marks", MARKS_PORT)
    _add_debug_port(devices, guest.sockets / "firmware", FIRMWARE_PORT)
    _mmio(_add(devices, "controller", type="virtio-serial", index="0"), guest)
    for channel in CHANNELS:
        port = _add(devices, "channel", type="unix")
        _add(port, "source", mode="connect", path=str(guest.sockets / channel))
        _add(port, "target", type="virtio", name=channel)
    add_balloon(devices, guest.hardware, lambda balloon: _mmio(balloon, guest))


def _add_qemu_extras(domain: ET.Element, guest: GuestSpec) -> None:
    """libvirt spends 250 ms to 300 ms of a start on asking QEMU for each CPU feature in turn; without this one
    capability it does not. The knob is meant for tests and taints the domain, so it is an option and is recorded."""
    if not guest.hardware.legacy_timers:  # libvirt has no words for it; QEMU merges this with what libvirt says
        commandline = _add(domain, f"{{{QEMU_NAMESPACE}}}commandline")
        for value in ("-machine", "pit=off,pic=off"):
            _add(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=value)
    if guest.fast_start:
        capabilities = _add(domain, f"{{{QEMU_NAMESPACE}}}capabilities")
        _add(capabilities, f"{{{QEMU_NAMESPACE}}}del", capability="cpu-unavailable-features")
    if guest.snapshot is not None:  # libvirt 9 reverts only domains that it keeps
        commandline = _add(domain, f"{{{QEMU_NAMESPACE}}}commandline")
        for value in ("-loadvm", guest.snapshot):
            _add(commandline, f"{{{QEMU_NAMESPACE}}}arg", value=value)
    if guest.icount:
        command = _add(domain, f"{{{QEMU_NAMESPACE}}}commandline")
        for word in ICOUNT_ARGV:
            _add(command, f"{{{QEMU_NAMESPACE}}}arg", value=word)


def _add_owner(domain: ET.Element, owner: str) -> None:
    """Have QEMU run as a given user with all files left as they are.

    Otherwise a privileged daemon gives kernel, initrd, disk and sockets to its own user for the time, and that user
    would have to reach them: a cache in a home directory is closed to it.
    """
    _add(_add(domain, "seclabel", type="static", model="dac", relabel="no"), "label", owner)


def _add_system(domain: ET.Element, guest: GuestSpec) -> None:
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=guest.machine)
    if guest.hardware.firmware is not None:
        _add(system, "loader", guest.hardware.firmware, type="rom")
    if guest.kernel is None:
        _add(system, "boot", dev="hd")
        return
    _add(system, "kernel", str(guest.kernel))
    _add(system, "initrd", str(guest.initrd))
    _add(system, "cmdline", guest.cmdline)


def domain_xml(guest: GuestSpec) -> str:
    """Return the XML of a transient domain; any way in which the guest ends destroys it."""
    ET.register_namespace("qemu", QEMU_NAMESPACE)
    ET.register_namespace("harness", METADATA_NAMESPACE)
    domain = ET.Element("domain", type=guest.domain_type)
    _add(domain, "name", guest.name)
    _add(_add(domain, "metadata"), f"{{{METADATA_NAMESPACE}}}run", token=guest.token)
    add_memory(domain, guest.hardware, guest.memory_bytes)
    _add(domain, "vcpu", str(guest.vcpus))
    add_memory_backing(domain, guest.hardware, shared=any(share.kind == "virtiofs" for share in guest.shares))
    _add_system(domain, guest)
    add_features(domain, guest.hardware)
    add_cpu(domain, guest.hardware, kvm=guest.accelerator == "kvm")
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _add(domain, event, "restart" if event == "on_reboot" and guest.restarts else "destroy")
    _add_devices(domain, guest)
    if guest.owner is not None:
        _add_owner(domain, guest.owner)
    _add_qemu_extras(domain, guest)
    return ET.tostring(domain, encoding="unicode")

"""What a guest boots: the harness' kernel and initramfs, or a distribution's own system with the agent on a disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.agent.program import PATH as AGENT_PATH
from harness.agent.program import agent_bytes, encode_spec
from harness.backends import _nic, _vm_storage
from harness.backends._domain import Accelerator, Disk, GuestSpec, kernel_cmdline
from harness.backends._vm_mounts import VmMounts
from harness.backends._vm_options import Options, guest_kernel
from harness.errors import CapabilityError
from harness.host.process import run
from harness.images import disk_chain, elf, initramfs, kernel, stock, trial_volumes
from harness.interfaces import ArmSpec, Json
from harness.model.spec import NetworkKind
from harness.model.units import format_bytes

_BUS = {"q35": "virtio_pci", "pc": "virtio_pci", "microvm": "virtio_mmio"}
_SECTOR_BYTES = 512
_HEADERS_BYTES = 4096  # of an ELF file, its program headers among them


@functools.cache
def tsc_khz() -> int:
    """Return how fast the time stamp counter runs, in kHz."""
    return int(run([str(AGENT_PATH), "--tsc-khz"]).stdout)


@dataclass(frozen=True, slots=True)
class Boot:
    """What every guest of an arm shares: the kernel, its modules and their names for the agent.

    With a `system` that one boots by itself, loads its own modules, and `kernel` only proves accelerators.
    """

    kernel: kernel.GuestKernel
    base: bytes = b""
    modules: tuple[str, ...] = ()
    late_modules: tuple[str, ...] = ()
    system: stock.System | None = None

    def pack(self, spec: bytes) -> bytes:
        """Return what a guest gets besides: the initramfs, or the disk from which its system takes the agent."""
        if self.system is None:
            return self.base + initramfs.spec_archive(spec)
        archive = initramfs.cpio([initramfs.file("init", agent_bytes(), 0o755), initramfs.file("spec", spec, 0o600)])
        return archive + bytes(-len(archive) % _SECTOR_BYTES)

    def take(self, guest: GuestSpec, trial_id: str) -> GuestSpec:
        """Return the guest with its system's disk in front, an image of its own. Raises: BackendError."""
        if self.system is None:
            return guest
        place = trial_volumes.place_of(guest.token, trial_id)
        with trial_volumes.making(place):
            place.mkdir(parents=True, exist_ok=True)
            top = disk_chain.put_on(self.system.disk, "raw", place / "SYSTEM.qcow2")
        own = Disk(top, "qcow2", read_only=False, bus=guest.hardware.disk_bus)
        return replace(guest, disks=(own, *guest.disks))

    def facts(self) -> dict[str, Json]:
        """Return what run.json holds of it."""
        if self.system is None:
            return {"kernel": self.kernel.release, "kernel_digest": self.kernel.digest}
        packages: list[Json] = [*self.system.packages]
        return {"kernel": self.system.release, "system": {"suite": self.system.suite, "packages": packages}}


def prepare(
    options: Options,
    cache: Path,
    network: NetworkKind,
    mounts: VmMounts,
    say: Callable[[str], None],
    console: Sequence[str] = ("virtio_console",),
) -> Boot:
    """Return what the guests of an arm boot; a system's disk is made unless it is there. Raises: CapabilityError.

    `console`: the modules of the channels that are opened late.
    """
    chosen = guest_kernel(options, cache)
    if options.boot == "disk":
        if stock.find(cache) is None:
            say("makes a disk with a distribution's own system from its packages: about two minutes, once")
        return Boot(chosen, system=stock.make(cache))
    devices = (_BUS[options.machine], *_vm_storage.modules(options), *_nic.modules(network, options.nic))
    for_workload = (*devices, *mounts.modules, *options.extra_modules)
    early = kernel.module_files(chosen, for_workload)
    late = (*console, "virtio_balloon") if options.hardware.has_balloon else tuple(console)
    every = kernel.module_files(chosen, (*for_workload, *late))
    paths = [*early, *(path for path in every if path not in early)]
    names = [path.lstrip("/") for path in initramfs.module_paths(paths)]
    base = initramfs.compressed(initramfs.base_initramfs(agent_bytes(), paths), options.initramfs)
    return Boot(chosen, base, tuple(names[: len(early)]), tuple(names[len(early) :]))


def agent_spec(spec: ArmSpec, boot: Boot, root: _vm_storage.Root, mounts: VmMounts) -> bytes:
    """Return the agent's specification."""
    extra = [
        ("mode", "vm"),
        *root.records,
        ("pids", str(spec.limits.pids)),
        ("hostname", spec.runtime),
        *(("module", name) for name in boot.modules),
        *(("late_module", name) for name in boot.late_modules),
        *mounts.records(),
    ]
    return encode_spec(spec.workload, extra)


def kernel_file(options: Options, boot: Boot) -> Path | None:
    """Return what QEMU is handed, None where the guest boots from its disk. Raises: CapabilityError."""
    if boot.system is not None:
        return None
    if options.boot == "vmlinux":
        return boot.kernel.vmlinux
    if boot.kernel.bzimage is None:
        raise CapabilityError(
            f"boot: bzimage: {boot.kernel.source}: is an uncompressed kernel already", hint="name a bzImage: kernel:"
        )
    return boot.kernel.bzimage


def refuse_too_little_memory(boot: Boot, initrd: Path, memory_bytes: int) -> None:
    """Raise CapabilityError where kernel and initramfs alone do not fit: such a guest ends or hangs without a word."""
    with boot.kernel.vmlinux.open("rb") as file:
        kernel_bytes = elf.loaded_bytes(file.read(_HEADERS_BYTES))
    needed_bytes = kernel_bytes + initrd.stat().st_size
    if memory_bytes < needed_bytes:
        what = f"kernel {boot.kernel.release} and its initramfs alone take {format_bytes(needed_bytes)}"
        raise CapabilityError(
            f"limits.memory: {format_bytes(memory_bytes)}: too little to boot: {what}",
            hint="96MiB is the least that boots Debian's cloud kernel; memory: raises that of one runtime",
        )


def cmdline(options: Options, accelerator: Accelerator) -> str:
    """Return the kernel's command line; that of a system stands in its bootloader's configuration."""
    return stock.CMDLINE if options.boot == "disk" else _own_cmdline(options, accelerator)


def _own_cmdline(options: Options, accelerator: Accelerator) -> str:
    return kernel_cmdline(
        options.machine,
        accelerator,
        tsc_khz=tsc_khz() if accelerator == "tcg" else None,
        extra=options.cmdline,
        self_tests=options.crypto_tests,
        serial=options.console == "serial",
    )


def to_probe(options: Options, boot: Boot) -> dict[str, Any]:
    """Return what differs in a guest that only proves an accelerator: it is handed a kernel in any case."""
    return {"kernel": boot.kernel.vmlinux, "cmdline": _own_cmdline(options, "kvm")}

"""The levers of a guest's start: each a key of `backend: libvirt` with a default, and what it changes besides time."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.backends._domain import Machine
from harness.backends._hardware import (
    DIRECT_CACHES,
    Console,
    DiskBus,
    DiskCache,
    DiskIo,
    Firmware,
    Hardware,
    NicModel,
)
from harness.model.fields import MemoryBytes, to_tuple

Boot = Literal["vmlinux", "bzimage", "disk"]
Compression = Literal["none", "gzip", "zstd"]
Words = Annotated[tuple[str, ...], BeforeValidator(to_tuple)]

QBOOT = "/usr/share/qemu/qboot.rom"

NOT_ON_MICROVM = "a microvm has no PCI bus for it"
NOT_STOCK = "boot: disk starts a distribution's own system, which brings its own"

CHANGES: dict[str, str] = {
    "boot": "a whole distribution starts before the workload, as another system than the image's",
    "machine": "another machine model: other devices to find, other costs of each exit",
    "cpu": "other instructions for guest and workload",
    "vcpus": "more or fewer CPUs than limits.cpus says",
    "memory": "more or less memory than limits.memory says",
    "hugepages": "memory is taken from the host's pool of huge pages, whole",
    "prealloc": "all memory is taken before the start: page faults move from the workload to the start",
    "disk_cache": "when a write is on disk, and whose page cache holds what is read",
    "balloon": "less memory than limits.memory says, from when it is ready",
    "free_page_reporting": "the guest gives back what it does not use",
    "ksm": "the host's merging of equal pages",
    "legacy_timers": "a machine without PIT and PIC",
}
"""What differs from other runtimes by a lever that is not at its default; those that are not here only cost time."""


class Levers(BaseModel):
    """What a scenario may choose of machine, firmware, kernel and devices; `docs/vm.md` says what each is worth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine = "q35"
    boot: Boot = "vmlinux"
    firmware: Firmware = "seabios"
    console: Console = "none"
    crypto_tests: bool = False
    initramfs: Compression = "none"
    extra_modules: Words = ()
    cpu: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+$")
    vcpus: int | None = Field(default=None, ge=1, le=64)
    memory: MemoryBytes | None = None
    hugepages: bool = False
    prealloc: bool = False
    tcg_cache: MemoryBytes | None = None
    disk_bus: DiskBus = "virtio"
    disk_cache: DiskCache = "writeback"
    disk_io: DiskIo = "threads"
    nic: NicModel = "virtio"
    legacy_timers: bool = True
    balloon: MemoryBytes | None = None
    free_page_reporting: bool = False
    ksm: Literal["host", "on", "off"] = "host"

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for key, reason in _misfits(self):
            raise ValueError(f"{key}: {getattr(self, key)}: {reason}".replace("True", "true").replace("False", "false"))
        return self

    @property
    def hardware(self) -> Hardware:
        """Return the levers that the domain has words for."""
        return Hardware(
            firmware=QBOOT if self.firmware == "qboot" else None,
            console=self.console,
            cpu=self.cpu,
            hugepages=self.hugepages,
            prealloc=self.prealloc,
            tcg_cache_bytes=self.tcg_cache,
            disk_bus=self.disk_bus,
            disk_cache=self.disk_cache,
            disk_io=self.disk_io,
            nic=self.nic,
            legacy_timers=self.legacy_timers,
            mergeable=self.ksm != "off",
            balloon_bytes=self.balloon,
            free_page_reporting=self.free_page_reporting,
        )

    def changes(self) -> dict[str, str]:
        """Return what is compared besides time, by the lever that is not at its default."""
        model = type(self).model_fields
        moved = {key: text for key, text in CHANGES.items() if getattr(self, key) != model[key].default}
        if self.boot != "disk":
            moved.pop("boot", None)
        return moved


def _misfits(levers: Levers) -> list[tuple[str, str]]:
    """Return the keys that do not go together with the others, each with the reason."""
    micro, stock = levers.machine == "microvm", levers.boot == "disk"
    direct = levers.disk_cache in DIRECT_CACHES
    found = [
        ("disk_bus", NOT_ON_MICROVM, micro and levers.disk_bus == "sata"),
        ("nic", NOT_ON_MICROVM, micro and levers.nic != "virtio"),
        ("boot", "a microvm starts kernels, not disks: its firmware reads none", micro and stock),
        ("legacy_timers", "only a microvm can be without them", not micro and not levers.legacy_timers),
        ("disk_io", "needs disk_cache: none or directsync (O_DIRECT)", levers.disk_io == "native" and not direct),
        ("firmware", "it starts kernels that QEMU hands it, and reads no disk", stock and levers.firmware == "qboot"),
        ("extra_modules", NOT_STOCK, stock and bool(levers.extra_modules)),
        ("initramfs", NOT_STOCK, stock and levers.initramfs != "none"),
        ("crypto_tests", NOT_STOCK, stock and levers.crypto_tests),
        ("balloon", "not beside prealloc, which takes all", levers.prealloc and levers.balloon is not None),
    ]
    return [(key, reason) for key, reason, wrong in found if wrong]

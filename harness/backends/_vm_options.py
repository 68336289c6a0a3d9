"""What a scenario may say under `backend: libvirt`, and the guest's kernel that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.backends import _shares
from harness.backends._domain import ShareKind
from harness.backends._shares import ShareOption
from harness.backends._vm_levers import NOT_STOCK, Levers
from harness.errors import CapabilityError
from harness.images import kernel

StorageDriver = Literal["raw", "ext4", "qcow2", "erofs-layers"]


class Storage(BaseModel):
    """How an image becomes a guest's root. `depth` counts the read-only images below the one that is written to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver: StorageDriver = Field(default="raw", description="raw, ext4, qcow2 or erofs-layers")
    depth: int = Field(default=1, ge=1, le=200, description="qcow2: read-only images below the one that is written to")

    @model_validator(mode="after")
    def _depth_is_for_chains(self) -> Self:
        if self.depth != 1 and self.driver != "qcow2":
            raise ValueError(f"depth: is for qcow2, not for {self.driver}")
        return self


class Options(Levers):
    """What a scenario may say under `backend: libvirt`."""

    accel: Literal["auto", "kvm", "tcg"] = "auto"
    uri: str | None = None
    kernel: Path | None = None
    modules: Path | None = None
    cmdline: str = ""
    disk: Literal["erofs", "ext4"] = "erofs"
    storage: StorageDriver | Storage = "raw"
    share: ShareOption = "auto"
    fast_start: bool = True
    icount: bool = False

    @model_validator(mode="after")
    def _only_emulation_counts(self) -> Self:
        if self.icount and self.accel == "kvm":
            raise ValueError("icount: counts instructions, which only emulation does: accel: tcg")
        if self.icount and (self.boot == "disk" or self.stored.driver not in {"raw", "ext4"}):
            raise ValueError("icount: its root is in the initramfs: storage: raw or ext4, and a kernel that is loaded")
        return self

    @model_validator(mode="after")
    def _stock_has_its_own(self) -> Self:
        for key in ("kernel", "modules", "cmdline"):
            if self.boot == "disk" and getattr(self, key):
                raise ValueError(f"{key}: {NOT_STOCK}")
        return self

    @model_validator(mode="after")
    def _sata_is_written_to(self) -> Self:
        if self.disk_bus == "sata" and self.boot != "disk" and self.stored.driver != "qcow2":
            raise ValueError("disk_bus: sata: has no read-only disks: storage: qcow2")
        return self

    @property
    def stored(self) -> Storage:
        """The option `storage` as if its long form had been written."""
        return self.storage if isinstance(self.storage, Storage) else Storage(driver=self.storage)


def guest_kernel(options: Options, cache: Path) -> kernel.GuestKernel:
    """Return the kernel that guests boot. Raises: CapabilityError."""
    if options.kernel is not None:
        return kernel.from_path(cache, options.kernel, options.modules)
    found = kernel.find(cache)
    if found is None:
        raise CapabilityError(
            "guest kernel: not in the cache", hint="scripts/setup fetches it (python -m harness.images.kernel fetch)"
        )
    return found


def root_fs(options: Options) -> Literal["erofs", "ext4"]:
    """Return the file system of the disk, or of each layer."""
    return {"raw": options.disk, "ext4": "ext4", "qcow2": "ext4", "erofs-layers": "erofs"}[options.stored.driver]


def kernel_has(options: Options, cache: Path) -> Callable[[ShareKind], None]:
    """Return a check that raises CapabilityError where the guest's kernel has no driver for a kind of share."""

    def check(kind: ShareKind) -> None:
        chosen = guest_kernel(options, cache)
        try:
            kernel.module_files(chosen, _shares.MODULES[kind])
        except CapabilityError as error:
            hint = "kernel: and modules: of one that has it: Debian's cloud kernel has no 9p, linux-image-amd64 has"
            raise CapabilityError(f"{kind}: not in the guest's kernel {chosen.release}", hint=hint) from error

    return check

"""What a scenario mounts into every instance: `volumes` and `mounts`, the same on both sides. See docs/volumes.md."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.model.fields import MemoryBytes, Strict
from harness.model.spec import MountKind, MountSpec

VOLUME_BYTES = 64 << 20
TMPFS_BYTES = 64 << 20
_KERNELS = ("/proc", "/sys", "/dev")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _target(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    clean = posixpath.normpath(value)
    if not value.startswith("/") or ".." in value.split("/") or clean.strip("/") == "":
        raise ValueError(f"expected an absolute path below the root of the instance, got {value!r}")
    if _CONTROL.search(value):
        raise ValueError(f"a path without control characters is needed, got {value!r}")
    clean = "/" + clean.lstrip("/")
    if any(clean == path or clean.startswith(path + "/") for path in _KERNELS):
        raise ValueError(f"{clean}: /proc, /sys and /dev are the kernel's, on every side")
    return clean


VolumeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=20)]  # serials of virtio disks: 20 bytes
Target = Annotated[str, BeforeValidator(_target)]


class VolumeSection(Strict):
    """A volume of the run: new and empty for every trial, and of the workload's user."""

    size_bytes: MemoryBytes = Field(default=VOLUME_BYTES, alias="size", description="what the disk of a VM holds")


class MountSection(Strict):
    """One mount of every instance."""

    type: MountKind
    source: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="volume: its name in `volumes`; bind: a path of the host"
    )
    target: Target = Field(description="absolute path in the instance; made where it is missing")
    ro: bool = Field(default=False, description="nothing can be written there")
    size_bytes: MemoryBytes | None = Field(default=None, alias="size", description="of a tmpfs")

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "tmpfs" and self.source is not None:
            raise ValueError("a tmpfs has no source")
        if self.type != "tmpfs" and self.source is None:
            raise ValueError(f"a {self.type} needs a source")
        if self.type != "tmpfs" and self.size_bytes is not None:
            where = "give it in volumes" if self.type == "volume" else "it has what its directory has"
            raise ValueError(f"size: is for tmpfs; a {self.type} has none here: {where}")
        return self


def mount_specs(
    volumes: Mapping[str, VolumeSection], mounts: Sequence[MountSection], base_dir: Path
) -> tuple[MountSpec, ...]:
    """Return the mounts of a scenario that was found right, outer ones first; host paths count from `base_dir`."""

    def spec(mount: MountSection) -> MountSpec:
        if mount.type == "volume":
            assert mount.source is not None
            return MountSpec("volume", mount.target, mount.source, mount.ro, volumes[mount.source].size_bytes)
        if mount.type == "bind":
            source = (base_dir / (mount.source or "")).expanduser().absolute()
            return MountSpec("bind", mount.target, posixpath.normpath(str(source)), mount.ro)
        return MountSpec("tmpfs", mount.target, "", mount.ro, mount.size_bytes or TMPFS_BYTES)

    return tuple(sorted(map(spec, mounts), key=lambda mount: mount.target.count("/")))

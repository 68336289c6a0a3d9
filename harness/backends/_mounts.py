"""A scenario's mounts on this host: what a container's spec says of them, and how the control gets the same ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.container import syscalls
from harness.container.spec import Mount
from harness.errors import BackendError
from harness.images import trial_volumes
from harness.images.confine import Confined
from harness.interfaces import ArmSpec, Capability, Json
from harness.model.spec import MountSpec

_TMPFS = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_TMPFS_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV


def tmpfs_options(mount: MountSpec) -> tuple[str, ...]:
    """Return the options of a tmpfs, the same on every side: everybody may write, as in /tmp."""
    return ("mode=1777", f"size={mount.size_bytes}")


def needs(mounts: Sequence[MountSpec]) -> tuple[Capability, ...]:
    """Return whether each bind has a directory on this host. A file is none: a VM can share directories alone."""
    return tuple(_need_source(mount) for mount in mounts if mount.kind == "bind")


def _need_source(mount: MountSpec) -> Capability:
    name, path = f"mount {mount.target}", Path(mount.source)
    if path.is_dir():
        return Capability(name, available=True, reason=f"directory {path}")
    if not path.exists():
        hint = "bind sources count from the scenario's directory; a volume needs none"
        return Capability(name, available=False, reason=f"{path}: no such directory", hint=hint)
    hint = "bind the directory that holds it: a VM can share directories alone"
    return Capability(name, available=False, reason=f"{path}: is no directory", hint=hint)


def facts(mounts: Sequence[MountSpec], how: Mapping[str, Json]) -> list[Json]:
    """Return what run.json holds of the mounts; `how` says by kind what they are on this side."""
    return [
        {"type": mount.kind, "target": mount.target, "source": mount.source or None, "ro": mount.read_only,
         "size_bytes": mount.size_bytes or None, "as": how[mount.kind]}
        for mount in mounts
    ]  # fmt: skip


# -- a container -----------------------------------------------------------------------------------------------------


def container_mounts(mounts: Sequence[MountSpec], volumes: Mapping[str, Path]) -> tuple[Mount, ...]:
    """Return the mounts as a container's spec has them; `volumes` are the directories of this trial."""
    return tuple(_container_mount(mount, volumes) for mount in mounts)


def _container_mount(mount: MountSpec, volumes: Mapping[str, Path]) -> Mount:
    read_only = syscalls.MOUNT_ATTR_RDONLY if mount.read_only else 0
    if mount.kind == "tmpfs":
        return Mount(mount.target, "tmpfs", "tmpfs", attrs=_TMPFS | read_only, data=tmpfs_options(mount))
    source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
    private = (syscalls.MS_PRIVATE | syscalls.MS_REC,)
    return Mount(mount.target, source=source, bind=True, recursive=True, recursive_attrs=read_only, propagation=private)


# -- the control -----------------------------------------------------------------------------------------------------


def mount_below(root: str, mounts: Sequence[MountSpec], volumes: Mapping[str, Path]) -> None:
    """Mount everything below a root that the host sees. No link of the image leads out of it. Raises: BackendError."""
    with Confined(Path(root)) as confined:
        for mount in mounts:
            try:
                _mount(confined, mount, volumes)
            except OSError as error:
                raise BackendError(f"mount: {mount.target}: {error.strerror}") from error


def _mount(confined: Confined, mount: MountSpec, volumes: Mapping[str, Path]) -> None:
    target = os.fsencode(mount.target)
    with confined.directory(target, make=True) as (fd, _):
        at = f"/proc/self/fd/{fd}"
        if mount.kind == "tmpfs":
            syscalls.mount("tmpfs", at, "tmpfs", _TMPFS_FLAGS, ",".join(tmpfs_options(mount)))
        else:
            source = str(volumes[mount.source]) if mount.kind == "volume" else mount.source
            syscalls.mount(source, at, None, syscalls.MS_BIND | syscalls.MS_REC)
    with confined.directory(target) as (fd, _):  # what is mounted there now
        syscalls.mount("none", f"/proc/self/fd/{fd}", None, syscalls.MS_PRIVATE | syscalls.MS_REC)
        if mount.read_only:
            syscalls.restrict_mount(fd, syscalls.MOUNT_ATTR_RDONLY, recursive=True)


# -- the volumes of both ---------------------------------------------------------------------------------------------


class Volumes:
    """An arm's mounts, and the volumes of each of its trials as directories of this host."""

    def __init__(self, spec: ArmSpec, token: str) -> None:
        self.mounts = spec.mounts
        self._token = token
        self._owner = trial_volumes.Owner(spec.workload.uid, spec.workload.gid)

    @property
    def anywhere(self) -> dict[str, Path]:
        """Paths that stand for the volumes in a plan that people read: every trial has its own."""
        return {name: Path("/HARNESS/volumes") / name for name in trial_volumes.names(self.mounts)}

    def take(self, trial_id: str) -> dict[str, Path]:
        """Return the directories of a trial, new and empty. Raises: BackendError."""
        return trial_volumes.make_directories(self._place(trial_id), self.mounts, self._owner)

    def drop(self, trial_id: str) -> None:
        """Remove them. Raises: BackendError."""
        if self.anywhere:
            trial_volumes.remove(self._place(trial_id))

    def _place(self, trial_id: str) -> Path:
        return trial_volumes.place_of(self._token, trial_id)

    def facts(self) -> list[Json]:
        return facts(self.mounts, {"volume": "directory", "bind": "bind mount", "tmpfs": "tmpfs"})

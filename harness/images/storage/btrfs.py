"""Btrfs: a layer is a read-only snapshot of its parent, the writable one a snapshot of that; a write copies an extent.

Where the data directory is no btrfs itself, the subvolumes live in a file with one, through a loop device that ends
with its last mount.
Source: include/uapi/linux/btrfs.h.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from contextlib import ExitStack
from pathlib import Path

from harness.container import syscalls
from harness.host.process import run
from harness.images.storage import detached, loop, usage
from harness.images.storage.applying import apply_layer
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json

_MAGIC = 0x9123683E  # BTRFS_SUPER_MAGIC
_SNAP_CREATE, _SUBVOL_CREATE, _SNAP_DESTROY, _SUBVOL_SETFLAGS = 0x50009417, 0x50009418, 0x5000940F, 0x4008941A
_RDONLY = 2
_FILE_BYTES = 16 << 30
"""Of the file with the file system; it has holes, so only what is written takes room."""
_MKFS_NS = 60 * 10**9


class Btrfs:
    """See `Driver`."""

    def __init__(self, place: Path, token: str) -> None:
        self._place = place
        self._device: Path | None = None
        self._undo = ExitStack()
        with ExitStack() as undo:
            undo.callback(self._undo.close)
            own = syscalls.fs_magic(str(place)) == _MAGIC
            self._top = self._open_directory() if own else self._open_file()
            undo.pop_all()
        self.facts: dict[str, Json] = {"on": "the data directory" if own else "a file, through a loop device"}

    def _open_directory(self) -> int:
        top = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._undo.callback(os.close, top)
        return top

    def _open_file(self) -> int:
        """Return the fd of the top of a fresh file system, which stays mounted, by us alone."""
        file = self._place / "btrfs.img"
        with file.open("xb") as image:
            image.truncate(_FILE_BYTES)
        run(["mkfs.btrfs", "-q", str(file)], timeout_ns=_MKFS_NS)
        fd, self._device = loop.attach(file)
        try:
            top = detached.new_mount("btrfs", [f"source={self._device}"])
        finally:
            os.close(fd)  # the mount has it open now
        self._undo.callback(os.close, top)
        directory = os.open(f"/proc/self/fd/{top}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._undo.callback(os.close, directory)
        return directory

    def _path(self, name: str) -> Path:
        return Path(f"/proc/self/fd/{self._top}/{name}")

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        if parent is None:
            fcntl.ioctl(self._top, _SUBVOL_CREATE, _arguments(0, name))
        else:
            self.prepare(name, parent)
        apply_layer(layer, self._path(name))
        fd = os.open(self._path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SUBVOL_SETFLAGS, struct.pack("=Q", _RDONLY))
        finally:
            os.close(fd)

    def prepare(self, key: str, parent: str) -> None:
        source = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._top)
        try:
            fcntl.ioctl(self._top, _SNAP_CREATE, _arguments(source, key))
        finally:
            os.close(source)

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        if self._device is None:
            return Mounted(detached.directory(self._place / key, readonly=readonly))
        attrs = syscalls.MOUNT_ATTR_RDONLY if readonly else 0
        return Mounted(detached.new_mount("btrfs", [f"source={self._device}", f"subvol=/{key}"], attrs=attrs))

    def usage_bytes(self, key: str) -> int:
        return usage.exclusive_bytes(self._path(key))

    def remove(self, key: str) -> None:
        fcntl.ioctl(self._top, _SNAP_DESTROY, bytearray(struct.pack("=q4088s", 0, key.encode())))

    def close(self) -> None:
        self._undo.close()
        shutil.rmtree(self._place)  # a subvolume goes like an empty directory (Linux 4.18)


def _arguments(fd: int, name: str) -> bytearray:
    """Return a struct btrfs_ioctl_vol_args_v2; only what can be changed may be as long as this (fcntl.ioctl)."""
    return bytearray(struct.pack("=qQQ32x4040s", fd, 0, 0, name.encode()))


def _open(place: Path, token: str) -> Driver:
    return Btrfs(place, token)


KIND = Kind("btrfs", "subvolume snapshots of btrfs, in a file where the data directory is no btrfs", _open,
            ("mkfs.btrfs",), hint="modprobe btrfs")  # fmt: skip

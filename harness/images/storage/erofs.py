"""EROFS with OverlayFS above: a layer is one read-only file system image, the writable one a directory.

Each image is mounted once, straight from its file where the kernel can (Linux 6.12), so that all containers share its
page cache; else through a loop device, which every overlay's own namespace mounts again.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from harness.container import syscalls
from harness.errors import CapabilityError
from harness.host.process import run
from harness.images.storage import detached, loop, usage
from harness.images.storage.overlay import make_writable
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json

_MKFS_NS = 600 * 10**9


class Erofs:
    """See `Driver`."""

    def __init__(self, place: Path, token: str) -> None:
        self._place = place
        self._chains: dict[str, tuple[str, ...]] = {}
        self._parents: dict[str, str] = {}
        self._layers: dict[str, Path] = {}
        self._mounts: dict[str, int] = {}
        self._devices: dict[str, Path] = {}
        self._undo = ExitStack()
        self._stacked = _stacks_files(place)
        how = "its file" if self._stacked else "a loop device"
        self.facts: dict[str, Json] = {"images_from": how, "options": [*detached.OVERLAY_OPTIONS]}

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        image = _make_image(self._place / f"{name}.erofs", layer)
        if self._stacked:
            self._mounts[name] = _mount_image(image)
            self._undo.callback(os.close, self._mounts[name])
        else:
            fd, self._devices[name] = loop.attach(image, readonly=True)
            self._undo.callback(os.close, fd)
        self._layers[name] = layer
        self._chains[name] = (name, *(self._chains[parent] if parent else ()))

    def prepare(self, key: str, parent: str) -> None:
        make_writable(self._place / key, self._layers[parent])
        self._parents[key] = parent

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        home, chain = self._place / key, self._chains[self._parents[key]]
        if self._stacked:
            lowers = [Path(f"/proc/self/fd/{self._mounts[name]}") for name in chain]
            return Mounted(detached.overlay(lowers, home, readonly=readonly))
        return Mounted(detached.in_private_namespace(lambda: self._mount_all(chain, home, readonly=readonly)))

    def _mount_all(self, chain: tuple[str, ...], home: Path, *, readonly: bool) -> int:
        """In a private namespace: an overlay takes no detached mounts as layers before Linux 6.15."""
        with ExitStack() as stack:
            lowers = []
            for name in chain:
                point = home / f"layer-{name}"
                point.mkdir()
                stack.callback(point.rmdir)
                syscalls.mount(str(self._devices[name]), str(point), "erofs", syscalls.MS_RDONLY)
                stack.callback(syscalls.umount2, str(point), syscalls.MNT_DETACH)
                lowers.append(point)
            return detached.overlay_by_options(lowers, home, readonly=readonly)

    def usage_bytes(self, key: str) -> int:
        return usage.allocated_bytes(self._place / key / "upper")

    def remove(self, key: str) -> None:
        del self._parents[key]
        shutil.rmtree(self._place / key)

    def close(self) -> None:
        self._undo.close()
        shutil.rmtree(self._place)


def _make_image(image: Path, layer: Path) -> Path:
    run(["mkfs.erofs", str(image), str(layer)], timeout_ns=_MKFS_NS)
    return image


def _mount_image(image: Path) -> int:
    return detached.new_mount("erofs", [f"source={image}", "ro"], attrs=syscalls.MOUNT_ATTR_RDONLY)


def _stacks_files(place: Path) -> bool:
    """Return whether an image is mounted from its file, and overlay takes such a mount, tried with an empty one."""
    trial, image = place / "trial", place / "trial.erofs"
    trial.mkdir()
    try:
        fd = _mount_image(_make_image(image, trial))
        try:
            make_writable(trial / "over", trial)
            os.close(detached.overlay([Path(f"/proc/self/fd/{fd}")], trial / "over"))
        finally:
            os.close(fd)
    except CapabilityError:
        return False
    finally:
        shutil.rmtree(trial)
        image.unlink(missing_ok=True)
    return True


def _open(place: Path, token: str) -> Driver:
    return Erofs(place, token)


KIND = Kind("erofs", "one read-only EROFS image a layer, OverlayFS above", _open, ("mkfs.erofs",),
            hint="modprobe erofs")  # fmt: skip

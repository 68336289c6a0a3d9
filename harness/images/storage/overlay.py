"""OverlayFS: layers stay the directories that they are, the writable one is a directory; a write copies a file up."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from harness.images.storage import detached, usage
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json


class Overlay:
    """See `Driver`. Nothing is copied when a layer is added: it is used where it lies."""

    def __init__(self, place: Path, token: str) -> None:
        self._place = place
        self._chains: dict[str, tuple[Path, ...]] = {}
        self._parents: dict[str, str] = {}
        api = "fsconfig lowerdir+" if detached.takes_single_layers() else "mount(2), layers by number"
        self.facts: dict[str, Json] = {"options": [*detached.OVERLAY_OPTIONS], "layers_by": api}

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        self._chains[name] = (layer, *(self._chains[parent] if parent else ()))

    def prepare(self, key: str, parent: str) -> None:
        make_writable(self._place / key, self._chains[parent][0])
        self._parents[key] = parent

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        return Mounted(detached.overlay(self._chains[self._parents[key]], self._place / key, readonly=readonly))

    def usage_bytes(self, key: str) -> int:
        return usage.allocated_bytes(self._place / key / "upper")

    def remove(self, key: str) -> None:
        del self._parents[key]
        shutil.rmtree(self._place / key)

    def close(self) -> None:
        shutil.rmtree(self._place)


def make_writable(home: Path, top: Path) -> None:
    """Make the two directories of a writable layer; the root of an overlay has the owner and mode of its upper one."""
    status = top.stat()
    home.mkdir(mode=0o700)
    for name in ("upper", "work"):
        (home / name).mkdir()
    os.chown(home / "upper", status.st_uid, status.st_gid)
    (home / "upper").chmod(stat.S_IMODE(status.st_mode))


def _open(place: Path, token: str) -> Driver:
    return Overlay(place, token)


KIND = Kind("overlay", "OverlayFS of the kernel: layers are directories, a first write copies the file up", _open,
            hint="modprobe overlay")  # fmt: skip

"""Copies: a layer is a whole tree, the writable one a copy of it. The slowest, and there is nothing that it cannot do.

Where the file system shares content between files (reflinks: btrfs, xfs), copying costs metadata alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.host.process import run
from harness.images.storage import detached, usage
from harness.images.storage.applying import apply_layer, can_reflink
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json

_COPY_NS = 600 * 10**9


class Vfs:
    """See `Driver`."""

    def __init__(self, place: Path, token: str) -> None:
        self._place = place
        self._reflink = can_reflink(place)
        self.facts: dict[str, Json] = {"reflink": self._reflink}

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        home = self._place / name
        if parent is None:
            home.mkdir()
        else:
            self._copy(parent, name)
        apply_layer(layer, home, reflink=self._reflink)

    def prepare(self, key: str, parent: str) -> None:
        self._copy(parent, key)

    def _copy(self, parent: str, name: str) -> None:
        """`cp -a` keeps owners, modes, times, links between files, devices, holes and extended attributes."""
        how = "always" if self._reflink else "never"
        source, target = str(self._place / parent), str(self._place / name)
        run(["cp", "-a", "--no-target-directory", f"--reflink={how}", source, target], timeout_ns=_COPY_NS)

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        return Mounted(detached.directory(self._place / key, readonly=readonly))

    def usage_bytes(self, key: str) -> int:
        home = self._place / key
        return usage.exclusive_bytes(home) if self._reflink else usage.allocated_bytes(home)

    def remove(self, key: str) -> None:
        shutil.rmtree(self._place / key)

    def close(self) -> None:
        shutil.rmtree(self._place)


def _open(place: Path, token: str) -> Driver:
    return Vfs(place, token)


KIND = Kind("vfs", "whole copies of the tree, by reflinks where the file system has them", _open, ("cp",))

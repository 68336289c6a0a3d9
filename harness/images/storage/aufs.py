"""aufs: the union of branches that Docker began with; in no mainline kernel, so only where somebody built it.

Written against its mount interface (aufs(5)): `br=UPPER=rw:LAYER=ro+wh:...`, further branches by remounts, a page of
options at a time. Layers are copied into its own form: `.wh.NAME` hides, `.wh..wh..opq` makes a directory opaque, which
is where the whiteouts of OCI layers come from.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.container import syscalls
from harness.errors import CapabilityError
from harness.images.storage import detached, usage
from harness.images.storage.applying import to_aufs
from harness.images.storage.overlay import make_writable
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json

_PAGE_BYTES = 4000
_MAX_BRANCHES = 127  # CONFIG_AUFS_BRANCH_MAX_127, its default
_MS_REMOUNT = 32
_OPTIONS = "dio,xino=/dev/shm/aufs.xino"


class Aufs:
    """See `Driver`."""

    def __init__(self, place: Path, token: str) -> None:
        if not syscalls.has_filesystem("aufs"):
            raise CapabilityError(
                "aufs: this kernel has no such file system", hint="it is out of tree: a kernel has to be built with it"
            )
        self._place = place
        self._chains: dict[str, tuple[Path, ...]] = {}
        self._parents: dict[str, str] = {}
        self.facts: dict[str, Json] = {"options": _OPTIONS}

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        copy = self._place / name
        copy.mkdir()
        to_aufs(layer, copy)
        self._chains[name] = (copy, *(self._chains[parent] if parent else ()))

    def prepare(self, key: str, parent: str) -> None:
        make_writable(self._place / key, self._chains[parent][0])
        self._parents[key] = parent

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        home, chain = self._place / key, self._chains[self._parents[key]]
        calls = branch_options(None if readonly else home / "upper", chain)
        return Mounted(detached.in_private_namespace(lambda: _mount(home / "work", calls)))

    def usage_bytes(self, key: str) -> int:
        return usage.allocated_bytes(self._place / key / "upper")

    def remove(self, key: str) -> None:
        del self._parents[key]
        shutil.rmtree(self._place / key)

    def close(self) -> None:
        shutil.rmtree(self._place)


def branch_options(upper: Path | None, lowers: Sequence[Path]) -> list[str]:
    """Return the options of the mount, then of each remount, that give these branches, the topmost first.

    Raises: CapabilityError for more branches than aufs has by default.
    """
    if len(lowers) + (upper is not None) > _MAX_BRANCHES:
        raise CapabilityError(f"aufs: {len(lowers)} layers: it stacks {_MAX_BRANCHES} branches at most")
    branches = [*([f"{upper}=rw"] if upper else []), *(f"{path}=ro+wh" for path in lowers)]
    calls = [f"{_OPTIONS},br={branches[0]}"]
    for number, branch in enumerate(branches[1:], start=1):
        first = len(calls) == 1
        more = f":{branch}" if first else f",append={branch}"
        if len(calls[-1]) + len(more) < _PAGE_BYTES:
            calls[-1] += more
        else:
            calls.append(f"append={branches[number]}")
    return calls


def _mount(point: Path, calls: Sequence[str]) -> int:
    """Mount and remount on a directory of a private namespace; return a detached copy."""
    syscalls.mount("none", str(point), "aufs", syscalls.MS_NODEV, calls[0])
    for options in calls[1:]:
        syscalls.mount("none", str(point), "aufs", _MS_REMOUNT | syscalls.MS_NODEV, options)
    return syscalls.clone_mount(str(point))


def _open(place: Path, token: str) -> Driver:
    return Aufs(place, token)


KIND = Kind("aufs", "the union file system of Docker's first years, out of tree", _open)

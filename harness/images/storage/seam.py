"""The seam of the storage drivers.

    driver.add("base", None, layer)       layers, parent by parent; not timed
    driver.add("app", "base", layer)
    driver.prepare("trial-1", "app")      a writable layer over them
    mounted = driver.mount("trial-1")     a detached mount, for whoever starts a container
    driver.remove("trial-1")              once it is mounted no more

Source of the model: containerd's snapshotter (Prepare, Mounts, Commit, Remove, Usage); `add` is its Prepare, the
unpacking and Commit in one, since a layer never changes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.interfaces import Json


@dataclass(frozen=True, slots=True)
class Mounted:
    """A root that is mounted nowhere yet: the fd, which is the caller's and holds it, and the pids that serve it."""

    fd: int
    helpers: tuple[int, ...] = ()


class Driver(Protocol):
    """One driver at work in a directory of its own. Names are of letters, digits, `-` and `_`.

    Every call may raise CapabilityError (a tool failed, the kernel refused) or OSError.
    """

    @property
    def facts(self) -> Mapping[str, Json]:
        """How it works here: options, sizes, what the file system gave."""
        ...

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        """Take a layer, a directory in overlay's form, over a parent (None: the lowest). It must stay as it is."""
        ...

    def prepare(self, key: str, parent: str) -> None:
        """Make a writable layer over a layer."""
        ...

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        """Return what `prepare` made as one mounted file system; without device nodes (`nodev`)."""
        ...

    def usage_bytes(self, key: str) -> int:
        """Return the bytes of disk that a writable layer takes for itself alone; what was written must be synced."""
        ...

    def remove(self, key: str) -> None:
        """Take a writable layer away; its mount must have gone."""
        ...

    def close(self) -> None:
        """Let go of everything and remove it from the disk."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A driver that can be chosen. `open` takes an empty directory on a disk, and the token of the run.

    `programs` are those it needs; `hint` says what helps where the kernel refuses it.
    """

    name: str
    doc: str
    open: Callable[[Path, str], Driver]
    programs: tuple[str, ...] = ()
    hint: str | None = None

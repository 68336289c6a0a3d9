"""A stack of layer directories seen as the one tree that overlay makes of them, without mounting anything.

Layers are in overlay's own form: a character device 0:0 hides what is below, the attribute `trusted.overlay.opaque`
says that a directory hides all of its lower ones. Links are followed as if the stack were `/`, never out of it.
Source: Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH115, PTH118
from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.images.confine import Names

_MAX_LINKS = 40  # MAXSYMLINKS of the kernel: include/linux/namei.h
OPAQUE = "trusted.overlay.opaque"


def is_whiteout(status: os.stat_result) -> bool:
    """Return whether an entry of a layer hides what is below it."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: bytes) -> bool:
    """Return whether a directory of a layer hides all of its lower ones."""
    try:
        return os.getxattr(directory, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:  # no such attribute, or a file system without any
        return False


class Merged:
    """The tree of a stack of directories, given lowest first."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._roots = [os.fsencode(path) for path in reversed(directories)]
        self._found: dict[Names, list[bytes]] = {(): self._roots}

    def places(self, names: Names) -> list[bytes]:
        """Return the real paths behind a canonical path, topmost first: several only for a directory, none for nothing.

        The first one has the attributes that are seen.
        """
        if names not in self._found:
            self._found[names] = self._step(self.places(names[:-1]), names[-1])
        return self._found[names]

    def _step(self, directories: list[bytes], name: bytes) -> list[bytes]:
        found: list[bytes] = []
        for directory in directories:
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(status.st_mode):
                found.append(path)
                if is_opaque(path):
                    break
                continue
            return found or ([] if is_whiteout(status) else [path])
        return found

    def status(self, names: Names) -> os.stat_result | None:
        """Return the lstat of a canonical path, None when there is nothing."""
        places = self.places(names)
        return os.lstat(places[0]) if places else None

    def children(self, names: Names) -> list[bytes]:
        """Return the names in a directory, sorted."""
        seen: dict[bytes, bool] = {}  # name: whether it is there; the topmost layer decides
        for place in self.places(names):
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name not in seen:
                        seen[entry.name] = not is_whiteout(entry.stat(follow_symlinks=False))
        return sorted(name for name, there in seen.items() if there)

    def walk(self, names: Names = ()) -> Iterator[tuple[Names, os.stat_result]]:
        """Yield everything below a directory, a directory before its entries, by name."""
        for name in self.children(names):
            path = (*names, name)
            status = self.status(path)
            assert status is not None
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                yield from self.walk(path)

    def canonical(self, path: bytes) -> Names:
        """Return the names that a path means once every link in it is followed; what does not exist stays as written.

        Raises: OSError (ELOOP).
        """
        names: list[bytes] = []
        pending, links = deque(path.split(b"/")), 0
        while pending:
            name = pending.popleft()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                del names[-1:]
                continue
            status = self.status((*names, name))
            if status is None or not stat.S_ISLNK(status.st_mode):
                names.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = self.link_target((*names, name))
            if target.startswith(b"/"):
                names.clear()
            pending.extendleft(reversed(target.split(b"/")))
        return tuple(names)

    def link_target(self, names: Names) -> bytes:
        return os.readlink(self.places(names)[0])

    def open_file(self, names: Names) -> int:
        """Return a read-only fd of a canonical path's file; a link there is refused (ELOOP). Raises: OSError."""
        places = self.places(names)
        if not places:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), b"/" + b"/".join(names))
        return os.open(places[0], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)

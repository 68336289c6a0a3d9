"""Paths inside a directory that nobody trusts: resolved component by component, never through a link out of it.

The walk follows links as if the directory were `/` (as chroot and openat2's RESOLVE_IN_ROOT do: an absolute target
starts at it, `..` stops at it), or, with `beneath`, refuses any step that would leave it (RESOLVE_BENEATH). It needs
no openat2(2) and so works in every container and on every kernel. Every open has O_NOFOLLOW, so what was checked
is what is used; a link's target is read, not followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # MAXSYMLINKS of the kernel: include/linux/namei.h

Names = tuple[bytes, ...]


class Confined:
    """A directory in which paths are resolved without ever leaving it."""

    def __init__(self, root: Path, *, beneath: bool = False) -> None:
        self._fd = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        self._beneath = beneath

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Confined:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def directory(self, path: bytes, *, make: bool = False) -> Iterator[tuple[int, Names]]:
        """Yield an open directory and the names that really lead to it; with `make`, missing ones are made (0755).

        Raises: OSError as open(2) would; EXDEV where `beneath` and the path leaves the directory.
        """
        fds, names = [os.dup(self._fd)], list[bytes]()
        try:
            self._walk(path, fds, names, make=make)
            yield fds[-1], tuple(names)
        finally:
            for fd in fds:
                os.close(fd)

    def _walk(self, path: bytes, fds: list[int], names: list[bytes], *, make: bool) -> None:
        """Push the fd of each component of `path` on `fds` and its name on `names`."""
        pending, links = deque(path.split(b"/")), 0
        if path.startswith(b"/"):
            self._to_root(fds, names)
        while pending:
            name = pending.popleft()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                self._up(fds, names)
                continue
            try:
                fds.append(_open_directory(name, fds[-1], make=make))
                names.append(name)
            except NotADirectoryError:
                target = _link_target(name, fds[-1])
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                if target.startswith(b"/"):
                    self._to_root(fds, names, link=True)
                pending.extendleft(reversed(target.split(b"/")))

    def _to_root(self, fds: list[int], names: list[bytes], *, link: bool = False) -> None:
        if link and self._beneath:
            raise OSError(errno.EXDEV, "leaves the directory")
        while len(fds) > 1:
            os.close(fds.pop())
        names.clear()

    def _up(self, fds: list[int], names: list[bytes]) -> None:
        if names:
            os.close(fds.pop())
            names.pop()
        elif self._beneath:
            raise OSError(errno.EXDEV, "leaves the directory")

    def canonical(self, path: bytes) -> Names:
        """Return the names that a path means once every link in it is followed; what does not exist stays as written.

        Raises: OSError (ELOOP; EXDEV where `beneath` and the path leaves the directory).
        """
        for _ in range(_MAX_LINKS):
            try:
                with self.directory(path) as (_, names):
                    return names
            except (FileNotFoundError, NotADirectoryError):
                head, _, last = path.rstrip(b"/").rpartition(b"/")
            parent = self.canonical(head)
            if last in {b"", b".", b".."}:
                return parent[:-1] if last == b".." else parent
            target = self._target(parent, last)
            if target is None:
                return (*parent, last)
            if target.startswith(b"/") and self._beneath:
                raise OSError(errno.EXDEV, "leaves the directory")
            path = target if target.startswith(b"/") else b"/".join((*parent, target))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _target(self, parent: Names, name: bytes) -> bytes | None:
        """Return a link's target, or None for what is no link or does not exist."""
        try:
            with self.directory(b"/".join(parent)) as (fd, _):
                return _link_target(name, fd)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def status(self, names: Names) -> os.stat_result | None:
        """Return the lstat of a canonical path, None when there is nothing."""
        try:
            with self.directory(b"/".join(names[:-1])) as (fd, _):
                return os.stat(names[-1] if names else b".", dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open_file(self, names: Names) -> int:
        """Return a read-only fd of a canonical path's regular file; a link there is refused (ELOOP)."""
        with self.directory(b"/".join(names[:-1])) as (fd, _):
            return os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)


def _open_directory(name: bytes, parent: int, *, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o755, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    os.fchmod(fd, 0o755)  # whatever the umask is
    return fd


def _link_target(name: bytes, parent: int) -> bytes:
    """Return a link's target. Raises: NotADirectoryError for what is no link."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise

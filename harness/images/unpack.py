"""Layers to a root tree: owners, modes, links, devices, times and attributes as the layers say, and nothing outside.

Every path is resolved by `harness.images.confine`; the last component is created with O_EXCL, never through a link. A
whiteout hides what lower layers hold, never what its own layer wrote. Directories get their modes and times at the end.
Source: image-spec layer.md ("Applying Changesets", "Whiteouts").
"""

# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH208
from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import IO

from harness.errors import ImageError
from harness.images.confine import Confined, Names
from harness.images.layers import Budget, LayerReader

_CHUNK_BYTES = 1 << 20
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_KEPT_XATTRS = ("user.", "security.capability")  # the others speak of the machine on which the layer was made
_NOBODY = 2**32 - 1  # (uid_t) -1, which chown(2) takes for "leave as it is"
_AS_ROOT = "run as root: only root can give files to other users and make devices"


class Unpacker:
    """Applies layers, lowest first, to one fresh directory that nobody else sees yet.

    `owners=False` leaves owners and devices out: enough to look paths up in, and possible without root.
    """

    def __init__(self, root: Path, budget: Budget, *, owners: bool = True) -> None:
        self._tree = Confined(root)
        self._budget = budget
        self._owners = owners
        self._left_entries = budget.entries
        self._left_bytes = budget.unpacked_bytes
        self._written: set[Names] = set()
        self._directories: dict[Names, tuple[int, int]] = {}  # names: (mode, mtime in ns)

    def apply(self, layer: LayerReader) -> None:
        """Apply one layer. Raises: ImageError; then the directory is worth nothing."""
        self._written.clear()
        for member, content in layer.members():
            what = f"{layer.what}: {member.name}"
            try:
                with layer.translated():
                    self._apply_entry(member, content, what)
            except OSError as error:
                hint = _AS_ROOT if isinstance(error, PermissionError) else None
                raise ImageError(f"{what}: {error.strerror}", hint=hint) from error

    def finish(self) -> None:
        """Give directories their modes and times, deepest first, and let go of the tree."""
        for names, (mode, mtime_ns) in sorted(self._directories.items(), reverse=True):
            with self._tree.directory(b"/".join(names)) as (fd, _):
                os.fchmod(fd, mode if self._owners else mode | 0o700)  # without root, or the next layer is locked out
                os.utime(fd, ns=(mtime_ns, mtime_ns))
        self._tree.close()

    def _apply_entry(self, member: tarfile.TarInfo, content: IO[bytes] | None, what: str) -> None:
        path = self._checked_path(member.name, what)
        self._charge(member, what)
        parent, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            with contextlib.suppress(FileNotFoundError), self._tree.directory(parent) as (fd, names):
                self._white_out(fd, name, names, what)
            return
        with self._tree.directory(parent, make=True) as (fd, names):
            self._written.update(names[:depth] for depth in range(1, len(names) + 1))
            if name:
                self._make(member, content, fd, (*names, name), what)
            else:
                self._make_directory(member, fd, b".", (), what)

    def _checked_path(self, text: str, what: str) -> bytes:
        path = text.encode("utf-8", "surrogateescape")
        parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
        if b".." in parts:
            raise ImageError(f"{what}: a path that climbs out by '..': refused")
        if len(path) > self._budget.path_bytes or len(parts) > self._budget.depth:
            raise ImageError(f"{what[:200]}: path of {len(path)} bytes and {len(parts)} levels: refused")
        return b"/".join(parts)

    def _charge(self, member: tarfile.TarInfo, what: str) -> None:
        self._left_entries -= 1
        self._left_bytes -= member.size
        if not (0 <= member.uid < _NOBODY and 0 <= member.gid < _NOBODY):
            raise ImageError(f"{what}: owner {member.uid}:{member.gid}: out of range")
        if self._left_entries < 0:
            raise ImageError(f"{what}: the image has more than {self._budget.entries} entries: refused")
        if self._left_bytes < 0:
            raise ImageError(f"{what}: the image holds more than {self._budget.unpacked_bytes} bytes: refused")

    def _make(self, member: tarfile.TarInfo, content: IO[bytes] | None, fd: int, path: Names, what: str) -> None:
        name = path[-1]
        source = self._link_source(member, path, what) if member.islnk() else None
        self._clear(fd, path, keep_directory=member.isdir())
        self._written.add(path)
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
            self._make_directory(member, fd, name, path, what)
        elif source is not None:
            self._hard_link(source, fd, name, what)
        elif content is not None:
            self._write_file(member, content, fd, name)
        elif member.issym():
            os.symlink(member.linkname.encode("utf-8", "surrogateescape"), name, dir_fd=fd)
            self._finish_special(member, fd, name)
        else:
            self._make_special(member, fd, name, what)

    def _make_directory(self, member: tarfile.TarInfo, fd: int, name: bytes, path: Names, what: str) -> None:
        if not member.isdir():
            raise ImageError(f"{what}: the root replaced by something that is no directory: refused")
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if self._owners:
                os.fchown(directory, member.uid, member.gid)
            _set_xattrs(directory, member)
        finally:
            os.close(directory)
        self._directories[path] = (member.mode & 0o7777, _mtime_ns(member))

    def _write_file(self, member: tarfile.TarInfo, content: IO[bytes], fd: int, name: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=fd), "wb", buffering=0) as file:
            while chunk := content.read(_CHUNK_BYTES):
                file.write(chunk)
            if self._owners:
                os.fchown(file.fileno(), member.uid, member.gid)  # clears set-id bits and capabilities: so, first
            os.fchmod(file.fileno(), member.mode & 0o7777)
            _set_xattrs(file.fileno(), member)
            os.utime(file.fileno(), ns=(_mtime_ns(member), _mtime_ns(member)))

    def _make_special(self, member: tarfile.TarInfo, fd: int, name: bytes, what: str) -> None:
        if member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=fd)
        elif not (member.ischr() or member.isblk()):
            raise ImageError(f"{what}: tar entry of unknown type {member.type!r}: refused")
        elif self._owners:
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=fd)
        else:
            return
        os.chmod(name, member.mode & 0o7777, dir_fd=fd)
        self._finish_special(member, fd, name)

    def _finish_special(self, member: tarfile.TarInfo, fd: int, name: bytes) -> None:
        if self._owners:
            os.chown(name, member.uid, member.gid, dir_fd=fd, follow_symlinks=False)
            if not member.issym():
                os.chmod(name, member.mode & 0o7777, dir_fd=fd)
        os.utime(name, ns=(_mtime_ns(member), _mtime_ns(member)), dir_fd=fd, follow_symlinks=False)

    def _link_source(self, member: tarfile.TarInfo, path: Names, what: str) -> Names:
        """Return what a hard link links to, inside the tree; an absolute target (kaniko's) starts at its root."""
        target = self._checked_path(member.linkname, f"{what}: hard link to {member.linkname}")
        parent, _, name = target.rpartition(b"/")
        try:
            with self._tree.directory(parent) as (_, names):
                source = (*names, name)
        except (FileNotFoundError, NotADirectoryError):
            source = (*parent.split(b"/"), name)
        status = self._tree.status(source)
        if status is None or stat.S_ISDIR(status.st_mode) or source == path:
            raise ImageError(f"{what}: hard link to {member.linkname}: no such file in the image")
        return source

    def _hard_link(self, source: Names, fd: int, name: bytes, what: str) -> None:
        with self._tree.directory(b"/".join(source[:-1])) as (source_fd, _):
            try:
                os.link(source[-1], name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError as error:
                raise ImageError(f"{what}: hard link to itself: refused") from error

    # Whiteouts and replacements

    def _white_out(self, fd: int, name: bytes, parent: Names, what: str) -> None:
        if name == _OPAQUE:
            for child in os.listdir(fd):
                self._hide(fd, (*parent, os.fsencode(child)))
        elif name.startswith(_WHITEOUT + _WHITEOUT):
            return  # bookkeeping of AUFS (.wh..wh.plnk, .wh..wh.aufs): not part of the image
        elif (hidden := name.removeprefix(_WHITEOUT)) in {b"", b".", b".."}:
            raise ImageError(f"{what}: whiteout of nothing: refused")
        else:
            self._hide(fd, (*parent, hidden))

    def _hide(self, fd: int, path: Names) -> None:
        """Remove what lower layers put at `path`; what this layer wrote stays, with the directories above it."""
        try:
            is_directory = stat.S_ISDIR(os.stat(path[-1], dir_fd=fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if not is_directory:
            if path not in self._written:
                os.unlink(path[-1], dir_fd=fd)
            return
        if path not in self._written:
            self._remove_directory(fd, path)
            return
        directory = os.open(path[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            for child in os.listdir(directory):
                self._hide(directory, (*path, os.fsencode(child)))
        finally:
            os.close(directory)

    def _clear(self, fd: int, path: Names, *, keep_directory: bool) -> None:
        """Remove what stands where an entry goes; a directory stays where a directory comes."""
        try:
            status = os.stat(path[-1], dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(path[-1], dir_fd=fd)
        elif not keep_directory:
            self._remove_directory(fd, path)

    def _remove_directory(self, fd: int, path: Names) -> None:
        shutil.rmtree(path[-1], dir_fd=fd)
        for names in [names for names in self._directories if names[: len(path)] == path]:
            del self._directories[names]


def _mtime_ns(member: tarfile.TarInfo) -> int:
    return int(member.mtime * 10**9)


def _set_xattrs(fd: int, member: tarfile.TarInfo) -> None:
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if key.startswith(_XATTR) and name.startswith(_KEPT_XATTRS):
            os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))

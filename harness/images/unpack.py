"""Layers to files: owners, modes, links, devices, times and attributes as the layers say, and nothing outside.

Every path is resolved by `harness.images.target`; the last component is created with O_EXCL, never through a link. A
whiteout hides what lower layers hold, never what its own layer wrote. Directories get their modes and times at the end.
Source: image-spec layer.md ("Applying Changesets", "Whiteouts").
"""

# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH208
from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from pathlib import Path
from typing import IO

from harness.errors import ImageError
from harness.images.confine import Names
from harness.images.layers import Budget, LayerReader
from harness.images.lowers import Lowers
from harness.images.target import OPEN_DIRECTORY, Directory, Target, is_kept, new_file, write_all
from harness.images.whiteouts import OPAQUE_NAME, PREFIX, Form

_CHUNK_BYTES = 1 << 20
_XATTR = "SCHILY.xattr."
_NOBODY = 2**32 - 1  # (uid_t) -1, which chown(2) takes for "leave as it is"
_AS_ROOT = "run as root: only root can give files to other users and make devices"


class Unpacker:
    """Applies layers to one directory that nobody else sees yet.

    In the form APPLIED several, lowest first, to a fresh directory or to a copy of the tree below; in the others one,
    to a fresh directory, `lowers` being the directories of the layers below (harness.images.whiteouts.Form).
    `owners=False` leaves owners and devices out: enough to look paths up in, and possible without root.
    """

    def __init__(
        self,
        root: Path,
        budget: Budget,
        *,
        owners: bool = True,
        form: Form = Form.APPLIED,
        lowers: Lowers | None = None,
    ) -> None:
        self._tree = Target(root, lowers or Lowers(), form, owners=owners, depth=budget.depth)
        self._budget = budget
        self._owners = owners
        self.left_entries = budget.entries
        self.left_bytes = budget.unpacked_bytes
        self._written: set[Names] = set()

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
        """Give directories their modes and times, deepest first, and let go of the tree. Raises: ImageError."""
        try:
            self._tree.settle()
        except OSError as error:
            raise ImageError(f"tree: directories could not be given their modes: {error.strerror}") from error

    def _apply_entry(self, member: tarfile.TarInfo, content: IO[bytes] | None, what: str) -> None:
        path = self._checked_path(member.name, what)
        self._charge(member, what)
        parent, _, name = path.rpartition(b"/")
        if name.startswith(PREFIX):
            with contextlib.suppress(FileNotFoundError):
                self._white_out(self._tree.directory(parent), name, what)
            return
        directory = self._tree.directory(parent, make=True)
        self._note(directory.names)
        if name:
            self._make(member, content, directory, name, what)
        else:
            self._set_directory(member, directory.fd, b".", (), what)

    def _note(self, names: Names) -> None:
        """Remember that this layer wrote a directory, and with it those above."""
        while names not in self._written:
            self._written.add(names)
            names = names[:-1]

    def _checked_path(self, text: str, what: str) -> bytes:
        path = text.encode("utf-8", "surrogateescape")
        parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
        if b".." in parts:
            raise ImageError(f"{what}: a path that climbs out by '..': refused")
        if len(path) > self._budget.path_bytes or len(parts) > self._budget.depth:
            raise ImageError(f"{what[:200]}: path of {len(path)} bytes and {len(parts)} levels: refused")
        return b"/".join(parts)

    def _charge(self, member: tarfile.TarInfo, what: str) -> None:
        self.left_entries -= 1
        if not (0 <= member.uid < _NOBODY and 0 <= member.gid < _NOBODY):
            raise ImageError(f"{what}: owner {member.uid}:{member.gid}: out of range")
        if self.left_entries < 0:
            raise ImageError(f"{what}: the image has more than {self._budget.entries} entries: refused")
        self._charge_bytes(member.size, what)

    def _charge_bytes(self, count_bytes: int, what: str) -> None:
        self.left_bytes -= count_bytes
        if self.left_bytes < 0:
            raise ImageError(f"{what}: the image holds more than {self._budget.unpacked_bytes} bytes: refused")

    def _make(
        self, member: tarfile.TarInfo, content: IO[bytes] | None, directory: Directory, name: bytes, what: str
    ) -> None:
        source = self._link_source(member, directory, name, what) if member.islnk() else None
        replaced = self._clear(directory, name, keep_directory=member.isdir())
        self._written.add((*directory.names, name))
        if member.isdir():
            self._make_directory(member, directory, name, what, replaced=replaced)
        elif source is not None:
            self._hard_link(source, directory, name, what)
        elif content is not None:
            self._write_file(member, content, directory.fd, name)
        elif member.issym():
            os.symlink(member.linkname.encode("utf-8", "surrogateescape"), name, dir_fd=directory.fd)
            self._finish_special(member, directory.fd, name)
        else:
            self._make_special(member, directory.fd, name, what)

    def _make_directory(
        self, member: tarfile.TarInfo, directory: Directory, name: bytes, what: str, *, replaced: bool
    ) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory.fd)
        self._set_directory(member, directory.fd, name, (*directory.names, name), what)
        if replaced:  # what stood here hid what the layers below have in a directory of that name
            self._tree.cover(self._tree.directory(b"/".join((*directory.names, name))))

    def _set_directory(self, member: tarfile.TarInfo, fd: int, name: bytes, path: Names, what: str) -> None:
        if not member.isdir():
            raise ImageError(f"{what}: the root replaced by something that is no directory: refused")
        directory = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
        try:
            if self._owners:
                os.fchown(directory, member.uid, member.gid)
            _set_xattrs(directory, member)
        finally:
            os.close(directory)
        self._tree.settings[path] = (member.mode & 0o7777, _mtime_ns(member))

    def _write_file(self, member: tarfile.TarInfo, content: IO[bytes], directory: int, name: bytes) -> None:
        fd = new_file(directory, name)
        try:
            while chunk := content.read(_CHUNK_BYTES):
                write_all(fd, chunk)
            if self._owners:
                os.fchown(fd, member.uid, member.gid)  # clears set-id bits and capabilities: so, first
            os.fchmod(fd, member.mode & 0o7777)
            _set_xattrs(fd, member)
            os.utime(fd, ns=(_mtime_ns(member), _mtime_ns(member)))
        finally:
            os.close(fd)

    def _make_special(self, member: tarfile.TarInfo, fd: int, name: bytes, what: str) -> None:
        if member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=fd)
        elif not (member.ischr() or member.isblk()):
            raise ImageError(f"{what}: tar entry of unknown type {member.type!r}: refused")
        elif member.ischr() and member.devmajor == member.devminor == 0:
            raise ImageError(f"{what}: character device 0:0, which OverlayFS takes for a whiteout: refused")
        elif self._owners:
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=fd)
        else:
            return
        self._finish_special(member, fd, name)

    def _finish_special(self, member: tarfile.TarInfo, fd: int, name: bytes) -> None:
        if self._owners:
            os.chown(name, member.uid, member.gid, dir_fd=fd, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, member.mode & 0o7777, dir_fd=fd)
        os.utime(name, ns=(_mtime_ns(member), _mtime_ns(member)), dir_fd=fd, follow_symlinks=False)

    # Hard links

    def _link_source(
        self, member: tarfile.TarInfo, directory: Directory, name: bytes, what: str
    ) -> tuple[Directory, bytes]:
        """Return where the file is that a hard link names; an absolute target (kaniko's) starts at the tree's root."""
        target = self._checked_path(member.linkname, f"{what}: hard link to {member.linkname}")
        parent, _, source = target.rpartition(b"/")
        status = None
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = self._tree.directory(parent)
            status = self._tree.status(found, source) if source else None
        if status is None or stat.S_ISDIR(status.st_mode) or (found.names, source) == (directory.names, name):
            raise ImageError(f"{what}: hard link to {member.linkname}: no such file in the image")
        return found, source

    def _hard_link(self, source: tuple[Directory, bytes], directory: Directory, name: bytes, what: str) -> None:
        found, source_name = source
        try:
            self._charge_bytes(self._tree.copy_up(found, source_name), what)
            os.link(source_name, name, src_dir_fd=found.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise ImageError(f"{what}: hard link to itself: refused") from error

    # Whiteouts and replacements

    def _white_out(self, directory: Directory, name: bytes, what: str) -> None:
        if name == OPAQUE_NAME:
            self._hide_content(directory)
        elif name.startswith(PREFIX + PREFIX):
            return  # bookkeeping of AUFS (.wh..wh.plnk, .wh..wh.aufs): not part of the image
        elif (hidden := name.removeprefix(PREFIX)) in {b"", b".", b".."}:
            raise ImageError(f"{what}: whiteout of nothing: refused")
        else:
            self._hide(directory, hidden)

    def _hide(self, directory: Directory, name: bytes) -> None:
        """Hide what lower layers put at `name`; what this layer wrote stays, with the directories above it."""
        names = (*directory.names, name)
        status = self._tree.own_status(directory, name)
        if names not in self._written:
            if status is not None:
                self._tree.remove(directory, name, status)
            self._tree.hide(directory, name)
        elif status is not None and stat.S_ISDIR(status.st_mode):
            self._hide_content(self._tree.directory(b"/".join(names)))

    def _hide_content(self, directory: Directory) -> None:
        self._tree.cover(directory)
        for child in map(os.fsencode, os.listdir(directory.fd)):
            if not child.startswith(PREFIX):  # whiteouts of this layer, in the form AUFS
                self._hide(directory, child)

    def _clear(self, directory: Directory, name: bytes, *, keep_directory: bool) -> bool:
        """Remove what stands where an entry goes; a directory stays where a directory comes.

        Return whether something went that hid what the layers below have there.
        """
        if self._tree.unhide(directory, name):
            return True
        status = self._tree.own_status(directory, name)
        if status is None or (keep_directory and stat.S_ISDIR(status.st_mode)):
            return False
        self._tree.remove(directory, name, status)
        return True


def _mtime_ns(member: tarfile.TarInfo) -> int:
    return int(member.mtime * 10**9)


def _set_xattrs(fd: int, member: tarfile.TarInfo) -> None:
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if key.startswith(_XATTR) and is_kept(name):
            os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))

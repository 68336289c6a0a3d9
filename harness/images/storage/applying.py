"""A layer in overlay's form, written onto a directory (`apply_layer`) or into the form that aufs reads (`to_aufs`).

Nothing is followed: a link in the target is replaced, never gone through, as overlay itself would show it.
"""

# Names in a layer may be any bytes; os takes them as they are.
# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH118, PTH123, PTH211
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path

_FICLONE = 0x40049409  # include/uapi/linux/fs.h
_OVERLAY = "trusted.overlay."
_OPAQUE = _OVERLAY + "opaque"
_AUFS_WHITEOUT, _AUFS_OPAQUE = ".wh.", ".wh..wh..opq"


def apply_layer(layer: Path, target: Path, *, reflink: bool = False) -> None:
    """Make `target` what overlay shows of `layer` over it: whiteouts remove, opaque directories clear.

    With `reflink`, content is shared with the layer where the file system can (FICLONE).
    """
    _Writer(reflink=reflink).directory(str(layer), str(target))


def to_aufs(layer: Path, target: Path) -> None:
    """Copy a layer into an empty directory, whiteouts as aufs and OCI layers have them: files named `.wh.NAME`."""
    _AufsWriter(reflink=False).directory(str(layer), str(target))


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def copy_attributes(source: Path, target: Path) -> None:
    """Give `target` the owner, mode, extended attributes and times of `source`; what only overlay reads is left out."""
    _attributes(str(source), str(target), source.lstat())


def can_reflink(place: Path) -> bool:
    """Return whether files in this directory can share their content, tried with two of them."""
    first, second = place / ".reflink-1", place / ".reflink-2"
    try:
        first.write_bytes(b"\0" * 4096)
        with first.open("rb") as source, second.open("wb") as copy:
            fcntl.ioctl(copy, _FICLONE, source.fileno())
    except OSError:
        return False
    finally:
        for file in (first, second):
            file.unlink(missing_ok=True)
    return True


class _Writer:
    def __init__(self, *, reflink: bool) -> None:
        self._reflink = reflink
        self._links: dict[tuple[int, int], str] = {}

    def directory(self, source: str, target: str) -> None:
        """Write what is in a directory, then its own attributes: times last, since entries change them."""
        if _is_opaque(source):
            self.clear(target)
        with os.scandir(source) as entries:
            for entry in entries:
                self._entry(entry.path, os.path.join(target, entry.name), entry.stat(follow_symlinks=False))
        _attributes(source, target, os.lstat(source))

    def clear(self, target: str) -> None:
        with os.scandir(target) as entries:
            for entry in entries:
                _remove(entry.path)

    def hide(self, target: str) -> None:
        _remove(target)

    def _entry(self, source: str, target: str, status: os.stat_result) -> None:
        if is_whiteout(status):
            self.hide(target)
        elif stat.S_ISDIR(status.st_mode):
            if not _is_directory(target):
                _remove(target)
                os.mkdir(target)
            self.directory(source, target)
        else:
            _remove(target)
            self._file(source, target, status)

    def _file(self, source: str, target: str, status: os.stat_result) -> None:
        first = self._links.setdefault((status.st_dev, status.st_ino), target)
        if first != target and status.st_nlink > 1:
            os.link(first, target, follow_symlinks=False)
            return
        if stat.S_ISREG(status.st_mode):
            self._content(source, target)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            os.mknod(target, status.st_mode, status.st_rdev)
        _attributes(source, target, status)

    def _content(self, source: str, target: str) -> None:
        with open(source, "rb") as reader, open(target, "xb") as writer:
            if self._reflink:
                with contextlib.suppress(OSError):  # from another file system: copied like any other
                    fcntl.ioctl(writer, _FICLONE, reader.fileno())
                    return
            shutil.copyfileobj(reader, writer, 1 << 20)


class _AufsWriter(_Writer):
    def clear(self, target: str) -> None:
        Path(target, _AUFS_OPAQUE).touch(mode=0o444)

    def hide(self, target: str) -> None:
        parent, name = os.path.split(target)
        Path(parent, _AUFS_WHITEOUT + name).touch(mode=0o444)


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise
        return False


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _remove(path: str) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _attributes(source: str, target: str, status: os.stat_result) -> None:
    """Owner first: a change of it clears set-id bits and file capabilities (chown(2))."""
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in _listed(source):
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _listed(path: str) -> list[str]:
    """Return the names of the extended attributes that belong to the image."""
    try:
        return [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(_OVERLAY)]
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []

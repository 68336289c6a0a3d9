"""The directory into which a layer is unpacked, seen together with the layers below it.

Paths are resolved name by name with O_NOFOLLOW, links as if the directory were `/` (as chroot does), through what the
layers below show as well; a directory that only they have is made here, with the owner, mode, time and attributes that
it has there. Directories stay open while they are used: most entries of a layer follow each other in one directory.
"""

# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH115, PTH208
from __future__ import annotations

import errno
import os
import stat
from collections import deque
from pathlib import Path
from typing import NamedTuple

from harness.images.confine import Names
from harness.images.lowers import Found, Lowers
from harness.images.whiteouts import PREFIX, Form, remove_whiteout, write_opaque, write_whiteout

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # MAXSYMLINKS of the kernel: include/linux/namei.h
_OPEN_AT_ONCE = 64
_CHUNK_BYTES = 1 << 20
KEPT_XATTRS = ("user.", "security.capability")  # the others speak of the machine on which the layer was made
_MARKS = ("user.overlay.", "user.fuseoverlayfs.")  # what a union file system believes: never from an archive


class Directory:
    """An open directory and the names that really lead to it; closed with its last reference."""

    __slots__ = ("fd", "names")

    def __init__(self, fd: int, names: Names) -> None:
        self.fd = fd
        self.names = names

    def __del__(self) -> None:
        os.close(self.fd)


class _Link(NamedTuple):
    target: bytes
    is_below: bool


class Target:
    """One directory that nobody else writes to. Methods raise OSError as the system calls do."""

    def __init__(
        self, root: Path, lowers: Lowers, form: Form = Form.APPLIED, *, owners: bool = True, depth: int = 200
    ) -> None:
        self._root = Directory(os.open(root, OPEN_DIRECTORY & ~os.O_NOFOLLOW), ())
        self._lowers = lowers
        self._form = form
        self._owners = owners
        self._depth = depth
        self._cache: dict[bytes, Directory] = {b"": self._root}
        self._hidden: set[Names] = set()  # whiteouts of this layer
        self._opaque: set[Names] = set()
        self.settings: dict[Names, tuple[int, int]] = {}  # what directories get at the end: (mode, mtime in ns)
        below = lowers.find(())
        if below is None:
            self._remember(self._root)
        else:
            self._take_over(self._root, below)

    # Resolving

    def directory(self, path: bytes, *, make: bool = False) -> Directory:
        """Return a directory; with `make`, one that neither this nor a lower layer has is made (0755)."""
        found = self._cache.pop(path, None)
        if found is None:
            parent, _, name = path.rpartition(b"/")
            above = self._cache.get(parent)
            found = self._plain_child(above, name) if above is not None else None
        if found is None:
            found, lasting = self._walk(path, make=make)
            if not lasting:
                return found
        self._cache[path] = found  # the last key is the youngest
        if len(self._cache) > _OPEN_AT_ONCE:
            del self._cache[next(iter(self._cache))]
        return found

    def _plain_child(self, above: Directory, name: bytes) -> Directory | None:
        """Return a child that is a directory of this layer; None leaves all else to the walk."""
        if name in {b"", b".", b".."} or len(above.names) >= self._depth:
            return None
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=above.fd)
        except OSError:
            return None
        return self._opened(fd, (*above.names, name))

    def _walk(self, path: bytes, *, make: bool) -> tuple[Directory, bool]:
        """Return the directory, and whether the same path leads to it until something of this layer is removed."""
        at, links, lasting = [self._root], 0, True
        pending = deque(path.split(b"/"))
        while pending:
            name = pending.popleft()
            if name == b"..":
                del at[max(1, len(at) - 1) :]
            if name in {b"", b".", b".."}:
                continue
            if len(at) > self._depth:
                raise OSError(errno.ENAMETOOLONG, f"more than {self._depth} directories deep")
            step = self._step(at[-1], name, make=make)
            if isinstance(step, Directory):
                at.append(step)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if step.target.startswith(b"/"):
                del at[1:]
            pending.extendleft(reversed(step.target.split(b"/")))
            lasting = lasting and not step.is_below
        return at[-1], lasting

    def _step(self, above: Directory, name: bytes, *, make: bool) -> Directory | _Link:
        names = (*above.names, name)
        if names not in self._hidden:
            try:
                return self._opened(os.open(name, OPEN_DIRECTORY, dir_fd=above.fd), names)
            except NotADirectoryError:
                return _Link(link_target(name, above.fd), is_below=False)
            except FileNotFoundError:
                below = self.below(names)
            if below is not None:
                return self._step_below(above, name, below)
        if not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        was_hidden = self.unhide(above, name)
        made = self._made(above, name, 0o755)
        if was_hidden:
            self.cover(made)
        return made

    def _step_below(self, above: Directory, name: bytes, below: Found) -> Directory | _Link:
        if below.is_directory:
            made = self._made(above, name, 0o700)
            self._take_over(made, below)
            return made
        if stat.S_ISLNK(below.status.st_mode):
            return _Link(os.readlink(below.path), is_below=True)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def _made(self, above: Directory, name: bytes, mode: int) -> Directory:
        os.mkdir(name, mode, dir_fd=above.fd)
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=above.fd)
        if self._owners:  # and not the group of a set-gid directory above
            os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, mode)  # whatever the umask is
        return Directory(fd, (*above.names, name))

    def _opened(self, fd: int, names: Names) -> Directory:
        directory = Directory(fd, names)
        if names not in self.settings:
            self._remember(directory)
        return directory

    def _remember(self, directory: Directory) -> None:
        """Note mode and time of a directory before anything is put into it."""
        status = os.fstat(directory.fd)
        self.settings[directory.names] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns)

    # What the layers below show

    def below(self, names: Names) -> Found | None:
        """Return what the layers below show at a path, None where this layer hides it."""
        above = [names[:depth] for depth in range(len(names))]
        if names in self._hidden or not self._hidden.isdisjoint(above) or not self._opaque.isdisjoint(above):
            return None
        return self._lowers.find(names)

    def status(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """Return the lstat of an entry of this layer or of those below, None when there is nothing."""
        own = self.own_status(directory, name)
        if own is not None:
            return own
        below = self.below((*directory.names, name))
        return below.status if below is not None else None

    def own_status(self, directory: Directory, name: bytes) -> os.stat_result | None:
        """Return the lstat of an entry of this layer, None when there is nothing (or a whiteout)."""
        if (*directory.names, name) in self._hidden:
            return None
        try:
            return os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def hide(self, directory: Directory, name: bytes) -> None:
        """Hide what the layers below show at `name`; this layer has nothing there."""
        names = (*directory.names, name)
        if self.below(names) is not None:
            write_whiteout(self._form, directory.fd, name)
            self._hidden.add(names)

    def unhide(self, directory: Directory, name: bytes) -> bool:
        """Make room where this layer has a whiteout; return whether it had one."""
        names = (*directory.names, name)
        if names not in self._hidden:
            return False
        remove_whiteout(self._form, directory.fd, name)
        self._hidden.discard(names)
        return True

    def cover(self, directory: Directory) -> None:
        """Hide what the layers below have in a directory of this layer."""
        if not directory.names:  # OverlayFS does not look whether the root of a layer is opaque
            for name in self._lowers.root_names():
                if self.own_status(directory, name) is None:
                    self.hide(directory, name)
            return
        # Where OverlayFS merges nothing it would show a whiteout as a name without a file.
        for hidden in [names for names in self._hidden if names[:-1] == directory.names]:
            self.unhide(directory, hidden[-1])
        below = self.below(directory.names)
        if below is not None and below.is_directory and directory.names not in self._opaque:
            write_opaque(self._form, directory.fd)
            self._opaque.add(directory.names)

    def copy_up(self, directory: Directory, name: bytes) -> int:
        """Copy what is no directory from the layers below; return its size in bytes, 0 when this layer has it already.

        Raises: FileNotFoundError.
        """
        if self.own_status(directory, name) is not None:
            return 0
        below = self.below((*directory.names, name))
        if below is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        status = below.status
        if stat.S_ISREG(status.st_mode):
            self._copy_file(below, directory.fd, name)
            return status.st_size
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(below.path), name, dir_fd=directory.fd)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=directory.fd)
        self._copy_status(name, directory.fd, status)
        return 0

    def _copy_file(self, below: Found, directory: int, name: bytes) -> None:
        source, copy = os.open(below.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), new_file(directory, name)
        try:
            while chunk := os.read(source, _CHUNK_BYTES):
                write_all(copy, chunk)
            if self._owners:
                os.fchown(copy, below.status.st_uid, below.status.st_gid)
            os.fchmod(copy, stat.S_IMODE(below.status.st_mode))
            _copy_xattrs(below.path, copy)
            os.utime(copy, ns=(below.status.st_mtime_ns, below.status.st_mtime_ns))
        finally:
            os.close(source)
            os.close(copy)

    def _copy_status(self, name: bytes, directory: int, status: os.stat_result) -> None:
        if self._owners:
            os.chown(name, status.st_uid, status.st_gid, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=directory)
        os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _take_over(self, directory: Directory, below: Found) -> None:
        """Give a directory what it has in the layers below."""
        if self._owners:
            os.fchown(directory.fd, below.status.st_uid, below.status.st_gid)
        _copy_xattrs(below.path, directory.fd)
        self.settings[directory.names] = (stat.S_IMODE(below.status.st_mode), below.status.st_mtime_ns)

    # Removing and ending

    def remove(self, directory: Directory, name: bytes, status: os.stat_result) -> None:
        """Remove an entry of this layer, `status` being its lstat."""
        if stat.S_ISDIR(status.st_mode):
            self._remove_tree(directory.fd, (*directory.names, name))
        else:
            os.unlink(name, dir_fd=directory.fd)
        if not stat.S_ISREG(status.st_mode):
            self._cache = {b"": self._root}  # cached paths may lead through it

    def _remove_tree(self, fd: int, names: Names) -> None:
        """Remove a directory; not deeper than `depth` levels, which bounds the recursion."""
        inside = os.open(names[-1], OPEN_DIRECTORY, dir_fd=fd)
        try:
            for child in map(os.fsencode, os.listdir(inside)):
                try:
                    os.unlink(child, dir_fd=inside)
                except IsADirectoryError:
                    self._remove_tree(inside, (*names, child))
                self._hidden.discard((*names, child.removeprefix(PREFIX)))
        finally:
            os.close(inside)
        os.rmdir(names[-1], dir_fd=fd)
        self.settings.pop(names, None)
        self._opaque.discard(names)

    def settle(self) -> None:
        """Give all directories their modes and times, and let go of the target."""
        for names, (mode, mtime_ns) in sorted(self.settings.items(), reverse=True):
            directory = self.directory(b"/".join(names))
            # Without root a directory that its owner may not enter would lock out who reads the tree.
            os.fchmod(directory.fd, mode if self._owners else mode | 0o700)
            os.utime(directory.fd, ns=(mtime_ns, mtime_ns))
        self._cache = {}


def new_file(directory: int, name: bytes) -> int:
    """Return the fd of a new file, for writing. Raises: FileExistsError whatever is there, a link as well."""
    return os.open(name, _NEW_FILE, 0o600, dir_fd=directory)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write everything: a file system that fills up takes a part first, and says so only the next time."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def link_target(name: bytes, directory: int) -> bytes:
    """Return a link's target. Raises: NotADirectoryError for what is no link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise


def is_kept(xattr: str) -> bool:
    """Return whether an extended attribute belongs to the file, and not to the machine on which it was packed."""
    return xattr.startswith(KEPT_XATTRS) and not xattr.startswith(_MARKS)


def _copy_xattrs(source: bytes, target: int) -> None:
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in filter(is_kept, names):
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False))

"""A root tree as a virtual machine's disk: the same files with the same owners, read-only, made once per root digest.

erofs is uncompressed and carries no time and no random identifier, so equal trees give equal disks. ext4 is for guests
whose kernel has no erofs, and only on request.
"""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import CapabilityError, CommandError, ImageError
from harness.host.process import find_program, run
from harness.images.disk_errors import disk_errors_told
from harness.images.store import commit_file
from harness.images.tree import walk
from harness.model.spec import RootTree

DiskFs = Literal["erofs", "ext4"]

_UUID = "68617261-6573-7300-8000-000000000001"  # any fixed one: a random one would change the disk's digest
_TIMEOUT_NS = 600 * 10**9
_BLOCK_BYTES = 4096
_INODE_BYTES = 256
_FULL = "No space left on device"
_ROOM = "make room there: harness image gc, or HARNESS_HOME on another disk"
_ROOM_BYTES, _ROOM_INODES = 1 << 30, 65536  # of a disk that is written to; the file is sparse


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image: a bare file system without a partition table. `size_bytes` is its length, not what it occupies."""

    path: Path
    fs: DiskFs
    size_bytes: int


def disk_image(tree: RootTree, directory: Path, fs: DiskFs = "erofs", *, writable: bool = False) -> Disk:
    """Return the disk of a root tree in `directory`, made if it is not there yet; safe beside other processes.

    A `writable` one, ext4 alone, has a journal and 1 GiB of room, and is the lowest image of a chain (`disk_chain`).

    Raises: CapabilityError when the program that makes it is missing; ImageError without room; CommandError.
    """
    make = _make_erofs if fs == "erofs" else functools.partial(_make_ext4, writable=writable)
    hexadecimal = tree.digest.removeprefix("sha256:")
    if writable:
        directory /= f"{hexadecimal}.chain"
    path = directory / ("001" if writable else f"{hexadecimal}.{fs}")
    directory.mkdir(parents=True, exist_ok=True)
    # The lock is the directory itself: no file that anybody could mistake for a disk.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not path.exists():
            _make(tree, path, make)
    finally:
        os.close(descriptor)
    return Disk(path, fs, path.stat().st_size)


def _make(tree: RootTree, path: Path, make: Callable[[RootTree, Path], None]) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.unlink(missing_ok=True)  # of a process that died: we hold the lock
    what = f"disk of the image {tree.digest[:19]}: {path.parent}"
    try:
        with disk_errors_told(what, _ROOM):
            make(tree, partial)
            with partial.open("r+b") as file:
                commit_file(file, partial, path)
    except CommandError as error:
        if _FULL not in error.stderr_tail:
            raise
        raise ImageError(f"{what}: {_FULL.lower()}", hint=_ROOM) from error
    finally:
        partial.unlink(missing_ok=True)


def _make_erofs(tree: RootTree, path: Path) -> None:
    try:
        find_program("mkfs.erofs")
    except CapabilityError as error:
        raise CapabilityError(error.message, hint=f"{error.hint}; or ask for an ext4 disk") from error
    run(["mkfs.erofs", "--quiet", "-T0", "-U", _UUID, str(path), str(tree.path)], timeout_ns=_TIMEOUT_NS)


def _make_ext4(tree: RootTree, path: Path, *, writable: bool) -> None:
    """Make an ext4 without lost+found, which the tree does not have and its digest would show."""
    inodes = sum(1 for _ in walk(tree.path)) + 64
    # Data, rounded up for each file; inodes; and 1/16 for block maps and long directories. The file is sparse.
    data_bytes = tree.size_bytes + inodes * (_BLOCK_BYTES + _INODE_BYTES)
    blocks = (data_bytes + data_bytes // 16) // _BLOCK_BYTES + 1024
    features = "^resize_inode"
    if writable:
        blocks, inodes = blocks + _ROOM_BYTES // _BLOCK_BYTES, inodes + _ROOM_INODES
    else:
        features += ",^has_journal"
    argv = [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK_BYTES), "-m", "0", "-N", str(inodes),
        "-O", features, "-U", _UUID, "-E", f"hash_seed={_UUID},root_owner=0:0,lazy_itable_init=0",
        "-d", str(tree.path), str(path), str(blocks),
    ]  # fmt: skip
    run(argv, timeout_ns=_TIMEOUT_NS, env={**os.environ, "LC_ALL": "C", "E2FSPROGS_FAKE_TIME": "1"})
    run(["debugfs", "-w", "-R", "rmdir lost+found", str(path)], timeout_ns=_TIMEOUT_NS)
    listing = run(["debugfs", "-R", "ls -p /", str(path)], timeout_ns=_TIMEOUT_NS).stdout
    if b"/lost+found/" in listing:  # debugfs ends with 0 whatever happened
        raise ImageError(f"disk: {path}: lost+found could not be removed")

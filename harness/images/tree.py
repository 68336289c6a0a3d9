"""The root digest: one sha256 over a whole root tree, the same on the host and inside every instance.

The agent computes it inside from the mounted root; equal digests prove that two arms run on the same files. The bytes
that are hashed are defined in harness/agent/README.md, "The root digest".
"""

# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH115, PTH118
from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError

_CHUNK_BYTES = 1 << 20
_TYPES = {
    stat.S_IFREG: b"f", stat.S_IFDIR: b"d", stat.S_IFLNK: b"l", stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b", stat.S_IFIFO: b"p", stat.S_IFSOCK: b"s",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tree: its path relative to the root, as the kernel has it (bytes), and its lstat."""

    path: bytes
    status: os.stat_result


def walk(root: Path) -> Iterator[Entry]:
    """Yield every entry but the root itself: in byte order within a directory, a directory before its entries.

    Raises: ImageError when a directory cannot be read.
    """
    base = os.fsencode(root)
    pending = [Entry(b"", os.lstat(base))]
    while pending:
        entry = pending.pop()
        if entry.path:
            yield entry
        if stat.S_ISDIR(entry.status.st_mode):
            pending.extend(reversed(_children(base, entry.path)))


def _children(base: bytes, path: bytes) -> list[Entry]:
    directory = os.path.join(base, path) if path else base
    prefix = path + b"/" if path else b""
    try:
        with os.scandir(directory) as found:
            return sorted((Entry(prefix + e.name, e.stat(follow_symlinks=False)) for e in found), key=lambda e: e.path)
    except OSError as error:
        raise _unreadable(base, path, error) from error


def _unreadable(base: bytes, path: bytes, error: OSError) -> ImageError:
    hint = "run as root: an image's files belong to many users" if isinstance(error, PermissionError) else None
    return ImageError(f"tree: {os.fsdecode(base)}: /{os.fsdecode(path)}: {error.strerror}", hint=hint)


def _file_sha256(base: bytes, path: bytes) -> bytes:
    digest = hashlib.sha256()
    descriptor = os.open(base + b"/" + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest().encode()


def _record(base: bytes, entry: Entry) -> bytes:
    """Return the bytes that stand for one entry in the root digest."""
    status, size, content = entry.status, b"0", b"-"
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    if kind == b"f":
        size, content = b"%d" % status.st_size, _file_sha256(base, entry.path)
    elif kind == b"l":
        content = os.readlink(base + b"/" + entry.path)
    elif kind in b"cb":
        size = b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
    head = b"%s %o %d %d %s" % (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, size)
    return entry.path + b"\0" + head + b" " + content + b"\0"


def root_digest(root: Path) -> str:
    """Return the root digest of the tree under `root`, as `sha256:HEX`.

    Raises: ImageError when something in it cannot be read.
    Source: harness/agent/README.md, "The root digest".
    """
    base, digest = os.fsencode(root), hashlib.sha256()
    for entry in walk(root):
        try:
            digest.update(_record(base, entry))
        except OSError as error:
            raise _unreadable(base, entry.path, error) from error
    return f"sha256:{digest.hexdigest()}"


def tree_size_bytes(root: Path) -> int:
    """Return the sum of the sizes of all regular files, in bytes; a file with several names counts once."""
    sizes = {
        (entry.status.st_dev, entry.status.st_ino): entry.status.st_size
        for entry in walk(root)
        if stat.S_ISREG(entry.status.st_mode)
    }
    return sum(sizes.values())

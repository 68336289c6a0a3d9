"""Whether a tree in the store is still what was unpacked: a cheap look at every entry, all its bytes only in doubt.

The fingerprint is a digest of path, type, mode, owner, size, inode and the two times of every entry. Any write and any
change of an owner, mode, link or attribute sets the ctime, which no system call sets back; so an equal fingerprint
proves that nobody changed the tree through its file system. It does not see what changes below that (the block device),
under a clock that was set back, or within the tick in which it was taken (some ms). A tree that was copied elsewhere
has another fingerprint and is read whole once.
"""

# Names in a tree are bytes, which pathlib does not take.
from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from harness.errors import ImageError
from harness.images.store import Store
from harness.images.tree import root_digest, walk


def fingerprint(root: Path) -> str:
    """Return the fingerprint of the tree under `root`. Raises: ImageError when a directory cannot be read."""
    status = os.lstat(root)
    digest = hashlib.sha256(b"%o %d %d" % (status.st_mode, status.st_uid, status.st_gid))  # a rename changes its times
    for entry in walk(root):
        s = entry.status
        numbers = (s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_ino, s.st_rdev, s.st_mtime_ns, s.st_ctime_ns)
        digest.update(entry.path + b"\0%o %d %d %d %d %d %d %d\0" % numbers)
    return digest.hexdigest()


def check_unpacked(store: Store, tree: Path, digest: str, compute: Callable[[Path], str]) -> None:
    """Return when a recorded tree is what was unpacked: by its fingerprint, or else by its digest, computed anew.

    The fingerprint of what was found sound is kept beside the tree, in HEX.stat.
    Raises: ImageError for a tree that was changed.
    """
    note, found = tree.with_suffix(".stat"), fingerprint(tree)
    with contextlib.suppress(FileNotFoundError):
        if note.read_text() == found:
            return
    if (now := compute(tree)) != digest:
        hint = f"remove {tree.with_suffix('.json')} and {tree}: the image is then unpacked anew"
        raise ImageError(f"tree: {tree}: changed since it was unpacked: its root digest is {now}", hint=hint)
    store.write_atomically(note, found.encode())


def note_unpacked(store: Store, tree: Path) -> None:
    """Keep the fingerprint of a tree that was just made."""
    store.write_atomically(tree.with_suffix(".stat"), fingerprint(tree).encode())


def layer_digest(root: Path) -> str:
    """Return the root digest of a layer's directory with the extended attributes, which say what is opaque."""
    base, digest = os.fsencode(root), hashlib.sha256(root_digest(root).encode())
    for path in (base, *(base + b"/" + entry.path for entry in walk(root))):
        for name in sorted(_xattr_names(path)):
            value = os.getxattr(path, name, follow_symlinks=False)
            digest.update(path[len(base) :] + b"\0" + os.fsencode(name) + b"\0" + value.hex().encode() + b"\0")
    return f"sha256:{digest.hexdigest()}"


def _xattr_names(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise

"""What COPY takes from, and what of it decides whether a step is done again: the content, never the times."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from io import BufferedReader
from typing import Protocol

from harness.images.build_steps import Inline
from harness.images.context import Found

_KEPT_XATTRS = ("user.", "security.capability")


class Files(Protocol):
    """What COPY takes from: a build context or a merged tree. `keeps_owners`: what is copied keeps whose it is."""

    keeps_owners: bool

    def find(self, source: str) -> list[Found]: ...
    def status(self, path: str) -> os.stat_result: ...
    def below(self, directory: str) -> list[str]: ...
    def open(self, path: str) -> BufferedReader: ...
    def link_target(self, path: str) -> bytes: ...


def find_all(patterns: Sequence[str], files: Files) -> tuple[Found, ...]:
    """Return what some sources mean, each once. Raises: ContextError."""
    return tuple(dict.fromkeys(found for pattern in patterns for found in files.find(pattern)))


def content_digest(files: Files, sources: Sequence[Found], inline: Sequence[Inline]) -> str:
    """Return the digest of names, types, modes, owners (where kept), attributes and bytes: not of times.

    Raises: ContextError, OSError.
    """
    digest = hashlib.sha256()
    for found in sources:
        digest.update(_record(files, found.path, found.name))
        if stat.S_ISDIR(files.status(found.path).st_mode):
            for path in files.below(found.path):
                digest.update(_record(files, inside(found.path, path), path))
    for document in inline:
        digest.update(b"%s\0%d\0%s\0" % (document.name.encode(), len(document.content), document.content))
    return digest.hexdigest()


def inside(directory: str, path: str) -> str:
    return f"{directory}/{path}" if directory else path


def _record(files: Files, path: str, name: str) -> bytes:
    status, content = files.status(path), b""
    if stat.S_ISREG(status.st_mode):
        with files.open(path) as file:
            attributes = repr(sorted(kept_xattrs(file.fileno()).items())).encode()
            content = hashlib.file_digest(file, "sha256").digest() + attributes
    elif stat.S_ISLNK(status.st_mode):
        content = files.link_target(path)
    owner = (status.st_uid, status.st_gid) if files.keeps_owners else ()
    mode = status.st_mode if path or files.keeps_owners else 0  # the context's own directory gives no mode
    return b"%s\0%o\0%s\0%d\0%s" % (os.fsencode(name), mode, repr(owner).encode(), len(content), content)


def kept_xattrs(fd: int | bytes) -> dict[str, bytes]:
    """Return the attributes that a layer keeps of an open file (or a path)."""
    try:
        names = [name for name in os.listxattr(fd) if name.startswith(_KEPT_XATTRS)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # a file system without attributes
            return {}
        raise
    return {name: os.getxattr(fd, name) for name in sorted(names)}

"""The guest's initramfs: a pure writer of newc cpio archives, and what the harness puts in them.

The kernel unpacks archives one after the other as long as each ends with its trailer and the next begins at a multiple
of four bytes. So the large part (agent, modules) is made once, and every run appends its own `/spec`. By default
nothing is compressed: it would be unpacked by the guest. The same entries give the same bytes: times are 0, inodes
count up.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zstandard

from harness.images import kmodules

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive, owned by root. `path` is relative, `mode` has the type bits (stat.S_IF*)."""

    path: str
    mode: int
    content: bytes = b""
    major: int = 0
    minor: int = 0


def file(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(path, stat.S_IFREG | permissions, content)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory; it must come before what it holds, because the kernel makes no parents."""
    return Entry(path, stat.S_IFDIR | permissions)


def character_device(path: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """Return a character device node."""
    return Entry(path, stat.S_IFCHR | permissions, b"", major, minor)


def cpio(entries: Iterable[Entry]) -> bytes:
    """Return a newc archive of `entries` with its trailer; its length is a multiple of four, so another can follow.

    Raises: ValueError for a path that is absolute, empty or holds a NUL, or that the trailer has; and for 4 GiB files.
    """
    parts = []
    for inode, entry in enumerate(entries, start=1):
        if not entry.path or entry.path.startswith("/") or "\0" in entry.path or entry.path == _TRAILER:
            raise ValueError(f"cpio: {entry.path!r}: not a usable path: want a relative one")
        parts.append(_record(inode, entry))
    return b"".join([*parts, _record(0, Entry(_TRAILER, 0))])


def base_initramfs(agent: bytes, modules: Sequence[Path]) -> bytes:
    """Return the archive that all runs share: the agent as /init, and `modules` as /modules/NN-NAME.ko in load order.

    `modules` come from `harness.images.kernel.module_files` and are stored uncompressed, so that the agent can hand
    their files to finit_module(2) in the order of their names. /dev/console exists because the kernel opens it as the
    agent's first file descriptors.

    Raises: CapabilityError when a module cannot be decompressed.
    """
    return cpio(
        [
            *(directory(name) for name in ("dev", "proc", "sys", "root", "disk", "modules")),
            character_device("dev/console", 5, 1),
            character_device("dev/null", 1, 3, 0o666),
            file("init", agent, 0o755),
            *(
                file(path.removeprefix("/"), kmodules.module_bytes(module))
                for path, module in zip(module_paths(modules), modules, strict=True)
            ),
        ]
    )


def compressed(archive: bytes, how: Literal["none", "gzip", "zstd"]) -> bytes:
    """Return the archive compressed so that another can follow it: the kernel passes over zeros between archives."""
    if how == "gzip":
        return _padded(gzip.compress(archive, mtime=0))
    if how == "zstd":
        return _padded(zstandard.ZstdCompressor(level=19).compress(archive))
    return archive


def module_paths(modules: Sequence[Path]) -> tuple[str, ...]:
    """Return the paths of `modules` inside the guest, in load order: `/modules/00-virtio.ko`, ..."""
    width = max(2, len(str(len(modules) - 1)))
    return tuple(f"/modules/{index:0{width}}-{kmodules.module_name(path)}.ko" for index, path in enumerate(modules))


def spec_archive(spec: bytes) -> bytes:
    """Return the archive that one run appends to `base_initramfs`: the file /spec, readable by root alone."""
    return cpio([file("spec", spec, 0o600)])


def _record(inode: int, entry: Entry) -> bytes:
    """Return header, name and content of one entry; name and content are each padded to a multiple of four."""
    name = entry.path.encode("utf-8", "surrogateescape") + b"\0"
    if len(entry.content) >= 1 << 32:
        raise ValueError(f"cpio: {entry.path}: {len(entry.content)} bytes: newc holds at most 4 GiB - 1")
    numbers = (
        inode, entry.mode, 0, 0,  # uid, gid
        2 if stat.S_ISDIR(entry.mode) else 1, 0,  # links, mtime
        len(entry.content), 0, 0, entry.major, entry.minor,  # the middle two: device that holds the file
        len(name), 0,  # no checksum in this variant
    )  # fmt: skip
    header = _MAGIC + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)

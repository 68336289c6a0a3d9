"""How many bytes of disk a tree takes: allocated, or not shared with any other file (reflinks, snapshots)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are (stat(2))
# include/uapi/linux/fiemap.h: the header, then `extent_count` extents of 56 bytes
_FS_IOC_FIEMAP, _SYNC, _SHARED, _LAST = 0xC020660B, 1, 0x2000, 1
_HEADER, _EXTENT, _EXTENTS = struct.Struct("=QQIIII"), struct.Struct("=QQQ16xI12x"), 64


def allocated_bytes(root: Path) -> int:
    """Return the bytes that a tree has on its disk; a file with several names counts once, the root not at all."""
    seen = {}
    for path, _directories, names in os.walk(root):
        for name in [*_directories, *names]:
            status = os.lstat(f"{path}/{name}")
            seen[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
    return sum(seen.values())


def exclusive_bytes(root: Path) -> int:
    """Return the bytes of the files' extents that no other file shares (FIEMAP).

    Raises: OSError where the file system does not tell.
    """
    seen = {}
    for path, _directories, names in os.walk(root):
        for name in names:
            file = Path(path, name)
            status = file.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size:
                seen[status.st_dev, status.st_ino] = sum(size for size, shared in _extents(file) if not shared)
    return sum(seen.values())


def _extents(file: Path) -> Iterator[tuple[int, bool]]:
    """Yield length in bytes, and whether it is shared, of each extent of a file."""
    with file.open("rb") as opened:
        offset, more = 0, True
        while more:
            buffer = bytearray(_HEADER.size + _EXTENTS * _EXTENT.size)
            _HEADER.pack_into(buffer, 0, offset, (1 << 64) - 1 - offset, _SYNC, 0, _EXTENTS, 0)
            fcntl.ioctl(opened, _FS_IOC_FIEMAP, buffer)
            count = _HEADER.unpack_from(buffer, 0)[3]
            more = False
            for number in range(count):
                logical, _, length, flags = _EXTENT.unpack_from(buffer, _HEADER.size + number * _EXTENT.size)
                yield length, bool(flags & _SHARED)
                offset, more = logical + length, not flags & _LAST

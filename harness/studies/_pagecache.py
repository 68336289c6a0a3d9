"""What of a file is in the host's page cache: mincore(2) looks through an overlay to the file below."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def resident_bytes(fd: int) -> int:
    """Return how many bytes of an open file are cached now, in whole pages.

    A mapping of a file in an overlay is one of the file below it (fs/overlayfs/file.c, ovl_mmap), so two overlays on
    one layer tell the same. Whoever may not write the file is told that all of it is there (mincore(2)): ask as root.
    """
    size = os.fstat(fd).st_size
    if not size:
        return 0
    pages = -(-size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    # Private and writable: only so can its address be taken; nothing is written.
    with mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        view = ctypes.c_char.from_buffer(mapped)
        failed = _LIBC.mincore(ctypes.addressof(view), size, vector)
        code = ctypes.get_errno()
        del view
    if failed:
        raise OSError(code, f"mincore: {os.strerror(code)}")
    return sum(page & 1 for page in vector) * mmap.PAGESIZE


def evict(paths: Iterable[str], root: int) -> None:
    """Write files of a directory (by fd) to the disk and let go of their pages (posix_fadvise(2), DONTNEED)."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY, dir_fd=root)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def read_all(paths: Iterable[str], root: int) -> tuple[int, int]:
    """Read files of a directory (by fd); return their size and how much of it was not cached before, in bytes."""
    size_bytes = missing_bytes = 0
    buffer = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags, dir_fd=root)) as file:
            length = os.fstat(file.fileno()).st_size
            size_bytes += length
            missing_bytes += max(0, length - resident_bytes(file.fileno()))
            while file.readinto(buffer):
                pass
    return size_bytes, missing_bytes

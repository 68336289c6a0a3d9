"""The little of ELF that booting needs: the sections of a kernel module and the PVH note of a kernel.

Source: System V ABI, "Object Files"; elf(5); include/xen/interface/elfnote.h of Linux. Only 64-bit little-endian files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAGIC = b"\x7fELF\x02\x01"  # ELFCLASS64, ELFDATA2LSB

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_PT_LOAD = 1
_PT_NOTE = 4
_SHT_NOBITS = 8
_XEN_ELFNOTE_PHYS32_ENTRY = 18


def is_elf(data: bytes) -> bool:
    """Return whether `data` is a 64-bit little-endian ELF file."""
    return data.startswith(MAGIC) and len(data) >= _HEADER.size


def section(data: bytes, name: bytes) -> bytes | None:
    """Return the content of the section called `name`, None when the file has none.

    Raises: ValueError when `data` is no ELF file or is cut off.
    """
    header = _header(data)
    offset, size, count, names_index = header[6], header[11], header[12], header[13]
    try:
        table = [_SECTION.unpack_from(data, offset + index * size) for index in range(count)]
        names = table[names_index][4] if count else 0
        for name_offset, kind, _, _, start, length, *_ in table:
            begin = names + name_offset
            if kind != _SHT_NOBITS and data[begin : data.index(b"\0", begin)] == name:
                return data[start : start + length]
    except (struct.error, IndexError, ValueError):
        raise ValueError("ELF file is cut off") from None
    return None


def pvh_entry(data: bytes) -> int | None:
    """Return the physical address at which a PVH loader enters this kernel, None when it cannot be booted that way.

    Raises: ValueError when `data` is no ELF file or is cut off.
    Source: docs/misc/pvh.pandoc of Xen; QEMU's hw/i386/x86.c reads the same note.
    """
    for kind, name, content in _notes(data):
        if kind == _XEN_ELFNOTE_PHYS32_ENTRY and name == b"Xen":
            return int.from_bytes(content, "little")
    return None


def loaded_bytes(data: bytes) -> int:
    """Return the physical address behind the last byte that a kernel occupies once it is loaded.

    Raises: ValueError when `data` is no ELF file or is cut off.
    """
    header = _header(data)
    offset, size, count = header[5], header[9], header[10]
    try:
        segments = [_PROGRAM.unpack_from(data, offset + index * size) for index in range(count)]
    except struct.error:
        raise ValueError("ELF file is cut off") from None
    return max((physical + memory for kind, _, _, _, physical, _, memory, _ in segments if kind == _PT_LOAD), default=0)


def _header(data: bytes) -> tuple[int, ...]:
    if not is_elf(data):
        raise ValueError("not a 64-bit ELF file")
    return _HEADER.unpack_from(data)


def _notes(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (type, name, content) of every note in the PT_NOTE segments."""
    header = _header(data)
    offset, size, count = header[5], header[9], header[10]
    for index in range(count):
        try:
            kind, _, start, _, _, length, *_ = _PROGRAM.unpack_from(data, offset + index * size)
        except struct.error:
            raise ValueError("ELF file is cut off") from None
        if kind == _PT_NOTE:
            yield from _notes_of(data[start : start + length])


def _notes_of(segment: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    at = 0
    while at + _NOTE.size <= len(segment):
        name_size, size, kind = _NOTE.unpack_from(segment, at)
        name_at = at + _NOTE.size
        content_at = name_at + (name_size + 3) // 4 * 4
        yield kind, segment[name_at : name_at + name_size].rstrip(b"\0"), segment[content_at : content_at + size]
        at = content_at + (size + 3) // 4 * 4

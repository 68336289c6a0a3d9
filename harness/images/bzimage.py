"""Take the uncompressed kernel (vmlinux, an ELF file) out of a bzImage, as extract-vmlinux does but by the header.

A guest that is handed the vmlinux through its PVH note skips its own decompression: about 0.5 s (lz4) to 5 s (xz) under
emulation. Source: Documentation/arch/x86/boot.rst of Linux, fields by their offsets there.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable

import lz4.block
import zstandard

from harness.errors import CapabilityError
from harness.images import elf

_SETUP_SECTS = 0x1F1
_MAGIC, _MAGIC_AT = b"HdrS", 0x202
_VERSION = 0x206
_PAYLOAD = 0x248  # payload_offset, payload_length: two u32, since protocol 2.08
_SECTOR_BYTES = 512
_LZ4_LEGACY_BLOCK_BYTES = 8 << 20


def vmlinux_of(image: bytes, name: str) -> bytes:
    """Return the uncompressed ELF kernel that `image` (a bzImage, or already a vmlinux) holds; `name` is for messages.

    Raises: CapabilityError when it is neither, is damaged, or cannot be booted by PVH.
    """
    try:
        kernel = image if elf.is_elf(image) else _decompress(_payload(image))
        entry = elf.pvh_entry(kernel)
    except ValueError as error:
        raise CapabilityError(
            f"guest kernel: {name}: {error}", hint="give an x86-64 bzImage (/boot/vmlinuz-*) or an uncompressed vmlinux"
        ) from error
    if entry is None:
        raise CapabilityError(
            f"guest kernel: {name}: has no PVH note, so QEMU cannot boot it uncompressed",
            hint="take a kernel built with CONFIG_PVH=y (Debian's, Ubuntu's and Fedora's are)",
        )
    return kernel


def _payload(image: bytes) -> bytes:
    """Return the compressed kernel with the four bytes behind it that hold its uncompressed size."""
    if image[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise ValueError("neither a bzImage nor an ELF file")
    if int.from_bytes(image[_VERSION : _VERSION + 2], "little") < 0x0208:
        raise ValueError("boot protocol before 2.08 (Linux 2.6.26)")
    if len(image) < _PAYLOAD + 8:
        raise ValueError("bzImage is cut off")
    start, length = struct.unpack_from("<II", image, _PAYLOAD)
    start += ((image[_SETUP_SECTS] or 4) + 1) * _SECTOR_BYTES
    if len(image) < start + length:
        raise ValueError("bzImage is cut off")
    return image[start : start + length]


def _decompress(payload: bytes) -> bytes:
    for magic, decompress in _FORMATS.items():
        if payload.startswith(magic):
            try:
                kernel = decompress(payload)
            except (zlib.error, lzma.LZMAError, zstandard.ZstdError, lz4.block.LZ4BlockError, OSError) as error:
                raise ValueError(f"damaged payload: {error}") from error
            # Every format ends with it: gzip by itself (ISIZE), the others by the kernel's build (size_append).
            if int.from_bytes(payload[-4:], "little") != len(kernel):
                raise ValueError(f"damaged payload: {len(kernel)} bytes, not the size that it states")
            return kernel
    raise ValueError(f"unknown compression (payload begins with {payload[:6].hex()})")


def _gzip(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload)


def _bzip2(payload: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload)


def _xz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO).decompress(payload)


def _zstd(payload: bytes) -> bytes:
    # The kernel is compressed with a window of 128 MiB (`zstd -22 --ultra`), above the library's default limit.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj().decompress(payload)


def _lz4_legacy(payload: bytes) -> bytes:
    """Undo `lz4 -l`: the magic, then blocks of (u32 size, data) that each hold at most 8 MiB."""
    blocks, at, end = [], 4, len(payload) - 4
    while at < end:
        size = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        blocks.append(lz4.block.decompress(payload[at : at + size], uncompressed_size=_LZ4_LEGACY_BLOCK_BYTES))
        at += size
    return b"".join(blocks)


_FORMATS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x02\x21\x4c\x18": _lz4_legacy,
    b"\x1f\x8b\x08": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"BZh": _bzip2,
    b"\x5d\0\0": _xz,  # "lzma alone"
}

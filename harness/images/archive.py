"""ADD of a local archive: its entries go into the layer one by one, below the target, and nothing is written beside it.

What is an archive is told by its first bytes, as Docker does: tar, plain or with gzip, bzip2, xz or zstd. Extended
attributes, file capabilities too, are not taken over: neither Docker's builder nor Podman's does that.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from typing import IO, cast

from harness.errors import ImageError
from harness.images.confine import Names
from harness.images.context import ContextError
from harness.images.layers import Budget, LayerReader
from harness.images.pack import LayerWriter, Owner

_BLOCK_BYTES = 512
_WHITEOUT = ".wh."
_KINDS = {tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
_MAX_ID = 2**32 - 2  # the last one is "no id" (chown(2))


def is_archive(file: IO[bytes]) -> bool:
    """Return whether an open file is a tar, plain or packed; it is at its beginning again afterwards."""
    try:
        tarfile.TarInfo.frombuf(_head(file), "utf-8", "surrogateescape")
    except (tarfile.TarError, zlib.error, OSError, EOFError, lzma.LZMAError):
        return False
    else:
        return True
    finally:
        file.seek(0)


def unpack_archive(file: IO[bytes], what: str, writer: LayerWriter, target: Names, owner: Owner | None) -> None:
    """Add every entry of an open archive to a layer, below `target`; times and owners are its own unless said.

    Raises: ContextError for an entry that would lead out of the target; ImageError for a damaged archive.
    """
    try:
        for member, content in LayerReader(_opened(file), what, Budget()).members():
            names = (*target, *_parts(member.name, what))
            if names == target:
                continue
            if member.type not in _KINDS and not member.isreg():
                raise ContextError(f"{what}: {member.name}: tar entry of unknown type {member.type!r}")
            link = _link_name(member, target, what)
            writer.member(member, b"/".join(names), link, owner or _owner(member, what), content)
    except lzma.LZMAError as error:
        raise ImageError(f"{what}: damaged: {error}") from error


def _head(file: IO[bytes]) -> bytes:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard  # noqa: PLC0415 - only where an archive needs it

        try:
            return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read(_BLOCK_BYTES)
        except zstandard.ZstdError:
            return b""
    opened = gzip.GzipFile(fileobj=file) if magic.startswith(b"\x1f\x8b") else _opened(file)
    return opened.read(_BLOCK_BYTES)


def _opened(file: IO[bytes]) -> IO[bytes]:
    """Return the plain bytes of what LayerReader does not unpack by itself."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(file))
    if magic == b"\xfd7zXZ\x00":
        return cast("IO[bytes]", lzma.LZMAFile(file))
    return file


def _parts(name: str, what: str) -> Names:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ContextError(f"{what}: {name}: a path that climbs out by '..'")
    if any(part.startswith(_WHITEOUT) for part in parts):
        raise ContextError(f"{what}: {name}: a name that means a whiteout: no layer can hold it")
    return tuple(part.encode("utf-8", "surrogateescape") for part in parts)


def _owner(member: tarfile.TarInfo, what: str) -> Owner:
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise ContextError(f"{what}: {member.name}: owner {member.uid}:{member.gid}: out of range")
    return Owner(member.uid, member.gid)


def _link_name(member: tarfile.TarInfo, target: Names, what: str) -> str:
    """Return what a link holds: a hard link names another entry of the same archive, so it moves with that."""
    if not member.islnk():
        return member.linkname
    return os.fsdecode(b"/".join((*target, *_parts(member.linkname, what))))

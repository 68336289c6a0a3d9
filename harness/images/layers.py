"""Reading layers: decompressed, measured and verified on the way, entry by entry.

A layer is read as a stream and never seeks, so its size on disk and in memory stays bounded whatever it says of itself.
Python's tarfile only parses the headers; nothing of its extraction is used (`harness.images.unpack` writes).
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from harness.errors import ImageError
from harness.images.forward import Ahead, Content, Forward, sparse_extents

_CHUNK_BYTES = 1 << 18
_HEADER_BYTES = 256 << 10  # longest extended header: names, link targets, extended attributes
_ZSTD_WINDOW_BYTES = 128 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one image may cost at most. `ratio` (unpacked / packed) counts once `ratio_from_bytes` are unpacked."""

    entries: int = 1_000_000
    unpacked_bytes: int = 64 << 30
    ratio: int = 200
    ratio_from_bytes: int = 256 << 20
    path_bytes: int = 4095
    depth: int = 200


class _Measured(io.RawIOBase):
    """A stream that hashes and counts what is read through it."""

    def __init__(self, source: IO[bytes], check: Callable[[int], None] | None = None) -> None:
        self._source = source
        self._check = check
        self._sha256 = hashlib.sha256()
        self.count_bytes = 0

    def readable(self) -> bool:
        return True

    def chunk(self) -> bytes:
        """Return the next bytes, empty at the end."""
        data = self._source.read(_CHUNK_BYTES)
        self._sha256.update(data)
        self.count_bytes += len(data)
        if self._check is not None:
            self._check(self.count_bytes)
        return data

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        data = self._source.read(len(view))
        view[: len(data)] = data
        self._sha256.update(data)
        self.count_bytes += len(data)
        return len(data)

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()


class LayerReader:
    """A layer's tar, decompressed. `packed` are the stored bytes: plain, gzip or zstd, told by their first bytes."""

    def __init__(self, packed: IO[bytes], what: str, budget: Budget) -> None:
        self.what = what
        self._sparse_bytes = 0
        self._packed = _Measured(packed)
        # The thread that reads ahead holds neither this object nor its source beyond the last chunk.
        check = functools.partial(_check_size, what, budget, self._packed)
        self._check_size = check
        self._tar = _Measured(_decompress(io.BufferedReader(self._packed, _CHUNK_BYTES)), check)
        self._chunks = Ahead(self._tar.chunk)

    def members(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """Yield every entry with its content (None for what has none), which must be read before the next entry.

        Raises: ImageError for a damaged or hostile layer.
        """
        with self.translated():
            stream = Forward(self._chunks)
            tar = tarfile.TarFile(
                fileobj=cast("IO[bytes]", stream), tarinfo=_Guarded, encoding="utf-8", errors="surrogateescape"
            )
            while (member := tar.next()) is not None:
                if member.size < 0:
                    raise ImageError(f"{self.what}: {member.name}: negative size")
                yield member, self._content(tar, stream, member)
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header in memory
            stream.skip_rest()  # what follows the end mark belongs to the digest

    def _content(self, tar: tarfile.TarFile, stream: Forward, member: tarfile.TarInfo) -> IO[bytes] | None:
        if not member.isreg():
            return None
        if member.sparse is None:
            return cast("IO[bytes]", Content(stream, member.size))
        # typeshed says bytes
        extents = sparse_extents(cast("list[tuple[int, int]]", member.sparse), member.size)
        member.sparse = cast("bytes", extents)
        self._sparse_bytes += member.size
        self._check_size(self._sparse_bytes)
        return tar.extractfile(member)

    def copy(self, write: Callable[[bytes], object]) -> None:
        """Hand the whole decompressed tar to `write`, instead of its members. Raises: ImageError, like `members`."""
        with self.translated():
            while chunk := self._chunks():
                write(chunk)

    def verify(self, digest: str, diff_id: str) -> None:
        """Check both digests after the last member. Raises: ImageError."""
        with self.translated():
            while self._chunks() or self._packed.chunk():
                pass
        for name, expected, found in (("blob", digest, self._packed.digest), ("diff_id", diff_id, self._tar.digest)):
            if expected != found:
                raise ImageError(f"{self.what}: damaged: {name} is {found}, not {expected}")

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn whatever a damaged stream makes its readers raise into one clear error."""
        import zstandard  # noqa: PLC0415 - 15 ms
        from isal import isal_zlib  # noqa: PLC0415

        isal_error = cast("type[Exception]", isal_zlib.error)
        broken = (tarfile.TarError, zlib.error, isal_error, gzip.BadGzipFile, zstandard.ZstdError, EOFError)
        try:
            yield
        except broken as error:
            raise ImageError(f"{self.what}: damaged: {error}") from error
        except (ValueError, OverflowError, UnicodeError, IndexError) as error:
            raise ImageError(f"{self.what}: damaged header: {error}") from error


class _Guarded(tarfile.TarInfo):
    """A header that cannot make tarfile read a whole disk into memory (extended headers are read at once)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Guarded:
        try:
            info = super().frombuf(buf, encoding, errors)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None  # tarfile takes one for the end of the archive
        if info.size < 0 or (info.type in _EXTENDED and info.size > _HEADER_BYTES):
            raise ImageError(f"layer: {info.name}: header of {info.size} bytes: refused")
        return info


def _check_size(what: str, budget: Budget, packed: _Measured, count_bytes: int) -> None:
    if count_bytes > budget.unpacked_bytes:
        raise ImageError(f"{what}: unpacks to more than {budget.unpacked_bytes} bytes: refused")
    if count_bytes > budget.ratio_from_bytes and count_bytes > budget.ratio * packed.count_bytes:
        raise ImageError(f"{what}: unpacks to more than {budget.ratio} times its size: refused")


def _decompress(packed: io.BufferedReader) -> IO[bytes]:
    magic = packed.peek(4)
    if magic.startswith(b"\x1f\x8b"):
        from isal import igzip  # noqa: PLC0415 - three times as fast as zlib

        return cast("IO[bytes]", igzip.IGzipFile(fileobj=packed))  # type: ignore[no-untyped-call]
    if magic.startswith(_ZSTD_MAGIC):
        import zstandard  # noqa: PLC0415 - only where a layer needs it

        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(packed, read_across_frames=True)
    return packed

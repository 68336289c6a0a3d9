"""Reading layers: decompressed, measured and verified on the way, entry by entry.

A layer is read as a stream and never seeks, so its size on disk and in memory stays bounded whatever it says of itself.
Python's tarfile only parses the headers; nothing of its extraction is used (`harness.images.unpack` writes).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from harness.errors import ImageError

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

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        data = self._source.read(len(view))
        view[: len(data)] = data
        self._sha256.update(data)
        self.count_bytes += len(data)
        if self._check is not None:
            self._check(self.count_bytes)
        return len(data)

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()


class LayerReader:
    """A layer's tar, decompressed. `packed` are the stored bytes: plain, gzip or zstd, told by their first bytes."""

    def __init__(self, packed: IO[bytes], what: str, budget: Budget) -> None:
        self.what = what
        self._budget = budget
        self._packed = _Measured(packed)
        self._tar = _Measured(_decompress(io.BufferedReader(self._packed, _CHUNK_BYTES)), self._check_size)

    def _check_size(self, count_bytes: int) -> None:
        budget = self._budget
        if count_bytes > budget.unpacked_bytes:
            raise ImageError(f"{self.what}: unpacks to more than {budget.unpacked_bytes} bytes: refused")
        if count_bytes > budget.ratio_from_bytes and count_bytes > budget.ratio * self._packed.count_bytes:
            raise ImageError(f"{self.what}: unpacks to more than {budget.ratio} times its size: refused")

    def members(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """Yield every entry with its content (None for what has none), which must be read before the next entry.

        Raises: ImageError for a damaged or hostile layer.
        """
        with self.translated():
            stream = io.BufferedReader(self._tar, _CHUNK_BYTES)
            tar = tarfile.open(  # noqa: SIM115 - a stream of ours: nothing to close
                fileobj=stream, mode="r|", tarinfo=_Guarded, encoding="utf-8", errors="surrogateescape"
            )
            while (member := tar.next()) is not None:
                if member.size < 0:
                    raise ImageError(f"{self.what}: {member.name}: negative size")
                yield member, tar.extractfile(member) if member.isreg() else None
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header in memory
            while stream.read(_CHUNK_BYTES):  # what follows the end mark belongs to the digest
                pass

    def copy(self, write: Callable[[bytes], object]) -> None:
        """Hand the whole decompressed tar to `write`, instead of its members. Raises: ImageError, like `members`."""
        with self.translated():
            while chunk := self._tar.read(_CHUNK_BYTES):
                write(chunk)

    def verify(self, digest: str, diff_id: str) -> None:
        """Check both digests after the last member. Raises: ImageError."""
        with self.translated():
            while self._tar.read(_CHUNK_BYTES) or self._packed.read(_CHUNK_BYTES):
                pass
        for name, expected, found in (("blob", digest, self._packed.digest), ("diff_id", diff_id, self._tar.digest)):
            if expected != found:
                raise ImageError(f"{self.what}: damaged: {name} is {found}, not {expected}")

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Turn whatever a damaged stream makes its readers raise into one clear error."""
        import zstandard  # noqa: PLC0415 - 15 ms

        try:
            yield
        except (tarfile.TarError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, EOFError) as error:
            raise ImageError(f"{self.what}: damaged: {error}") from error
        except (ValueError, OverflowError, UnicodeError) as error:
            raise ImageError(f"{self.what}: damaged header: {error}") from error


class _Guarded(tarfile.TarInfo):
    """A header that cannot make tarfile read a whole disk into memory (extended headers are read at once)."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Guarded:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in _EXTENDED and info.size > _HEADER_BYTES):
            raise ImageError(f"layer: {info.name}: header of {info.size} bytes: refused")
        return info


def _decompress(packed: io.BufferedReader) -> IO[bytes]:
    magic = packed.peek(4)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=packed))
    if magic.startswith(_ZSTD_MAGIC):
        import zstandard  # noqa: PLC0415 - only where a layer needs it

        decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        return decompressor.stream_reader(packed, read_across_frames=True)
    return packed

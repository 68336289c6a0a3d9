"""What is carried to another host so that an instance can start there: an image's layers, or a machine's disk.

    store --pack_image--> file --receive_image--> empty store        one file per image, digests checked on arrival
    disk  --pack_disk---> file --receive_disk--> disk                one file per disk

Every function takes its stores and paths from the caller and touches nothing else, so that each can be timed alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Literal

from harness.errors import ImageError, UsageError
from harness.host.process import run
from harness.images.interchange import export_image, import_image
from harness.images.oci import Image
from harness.images.parcel import Parcel
from harness.images.repack import Compression
from harness.images.store import Store

DiskForm = Literal["raw", "raw-zstd", "qcow2", "qcow2-zstd"]

_TIMEOUT_NS = 3600 * 10**9
_CHUNK_BYTES = 1 << 20


def pack_image(store: Store, name: str, target: Path, compression: Compression | None = None) -> Parcel:
    """Write an image to one new file, as an OCI archive; return what it holds, blob by blob.

    Raises: ImageError, UsageError, like `export_image`.
    """
    return export_image(store, name, target, "oci-archive", compression)


def receive_image(source: Path, store: Store) -> Image:
    """Take the one image of a file into a store, every digest checked; it is not unpacked yet. Raises: ImageError."""
    images = {image.manifest.digest: image for image in import_image(source, store).values()}
    if len(images) != 1:
        raise ImageError(f"import: {source}: holds {len(images)} images, not one")
    return next(iter(images.values()))


def bytes_to_carry(parcel: Parcel, there: Container[str] = ()) -> int:
    """Return how many bytes of an image must be carried to a place that has the blobs whose digests are `there`.

    This is what a registry's protocol transfers; an archive always holds all.
    """
    return sum(blob.size_bytes for blob in parcel.blobs if blob.digest not in there)


def pack_disk(disk: Path, target: Path, form: DiskForm) -> int:
    """Write a raw disk to a new file in that form; return the file's length in bytes, which is what is carried.

    raw: the disk as it is, holes and all. raw-zstd: one zstd stream of it. qcow2: clusters that hold anything.
    qcow2-zstd: each of these clusters packed, and read so by QEMU without being unpacked.

    Raises: UsageError when the target exists; CapabilityError without qemu-img; CommandError.
    """
    _refuse_existing(target)
    with _complete(target):
        if form == "raw":
            shutil.copyfile(disk, target)
        elif form == "raw-zstd":
            _through_zstd(disk, target, pack=True)
        else:
            packed = ["-c", "-o", "compression_type=zstd"] if form == "qcow2-zstd" else []
            _convert(["-f", "raw", "-O", "qcow2", *packed, str(disk), str(target)])
    return target.stat().st_size


def receive_disk(source: Path, target: Path, form: DiskForm) -> None:
    """Write what `pack_disk` wrote back to a raw disk that a machine can start from; holes are holes again.

    Raises: ImageError for a damaged file; otherwise like `pack_disk`.
    """
    _refuse_existing(target)
    with _complete(target):
        if form == "raw-zstd":
            _through_zstd(source, target, pack=False)
        else:
            _convert(["-f", "raw" if form == "raw" else "qcow2", "-O", "raw", str(source), str(target)])


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise UsageError(f"disk: {target}: exists already", hint="choose another target, or remove it first")


@contextlib.contextmanager
def _complete(target: Path) -> Iterator[None]:
    """Remove the target when what writes it fails."""
    try:
        yield
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _convert(words: list[str]) -> None:
    run(["qemu-img", "convert", *words], timeout_ns=_TIMEOUT_NS)


def _through_zstd(source: Path, target: Path, *, pack: bool) -> None:
    import zstandard  # noqa: PLC0415 - 15 ms, only where it is asked for

    with source.open("rb") as file, target.open("xb") as out:
        if pack:
            zstandard.ZstdCompressor(threads=-1).copy_stream(file, out, size=source.stat().st_size)
            return
        try:
            with zstandard.ZstdDecompressor().stream_reader(file) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    if chunk.count(0) == len(chunk):
                        out.seek(len(chunk), os.SEEK_CUR)  # a hole
                    else:
                        out.write(chunk)
        except zstandard.ZstdError as error:
            raise ImageError(f"disk: {source}: damaged: {error}") from error
        out.truncate()

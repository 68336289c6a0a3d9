"""Layers packed anew for their way elsewhere: the same tar, so the same diff id, in another compression.

The same layer, compression and library version always give the same bytes: no times, no names in the header.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast, get_args

from harness.errors import UsageError
from harness.images import oci
from harness.images.layers import Budget, LayerReader
from harness.images.oci import Descriptor, Layer
from harness.images.store import BlobWriter, Store

Packing = Literal["none", "gzip", "zstd"]

_LEVELS: dict[Packing, range] = {"none": range(0), "gzip": range(1, 10), "zstd": range(1, 23)}
_USUAL: dict[Packing, int] = {"none": 0, "gzip": 6, "zstd": 3}  # what the tools of these formats take by themselves
_SUFFIX: dict[Packing, str] = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
_GZIP_WINDOW = 31  # zlib: 15 bits, with gzip's header
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Compression:
    """How layers are to be packed; `level` None is the usual one, and keeps a layer that is packed so already.

    With `plain_only` whatever is packed in any way stays as it is.
    """

    kind: Packing
    level: int | None = None
    plain_only: bool = False

    def keeps(self, packing: Packing) -> bool:
        """Whether a layer that is packed in that way stays as it is."""
        return (self.level is None and packing == self.kind) or (self.plain_only and packing != "none")

    @property
    def media_type(self) -> str:
        return oci.LAYER + _SUFFIX[self.kind]


def parse_compression(text: str) -> Compression:
    """Return the compression that `none`, `gzip`, `zstd` or `zstd:19` names. Raises: UsageError."""
    word, colon, level = text.partition(":")
    kind = next((kind for kind in get_args(Packing) if kind == word), None)
    if kind is None:
        raise UsageError(f"compression: {text}: unknown", hint="one of none, gzip, zstd, or with a level: zstd:19")
    if not colon:
        return Compression(kind)
    if not level.isascii() or not level.isdigit() or int(level) not in _LEVELS[kind]:
        levels = _LEVELS[kind]
        hint = f"{kind} has the levels {levels[0]} to {levels[-1]}" if levels else "`none` has no level"
        raise UsageError(f"compression: {text}: no such level", hint=hint)
    return Compression(kind, int(level))


def packing_of(store: Store, layer: Layer) -> Packing:
    """Return how a stored layer is packed, told by its first bytes. Raises: ImageError when it is missing."""
    with store.open_blob(layer.blob) as file:
        start = file.read(4)
    return "gzip" if start.startswith(b"\x1f\x8b") else "zstd" if start == b"\x28\xb5\x2f\xfd" else "none"


def repack(
    store: Store, layers: tuple[Layer, ...], compression: Compression, scratch: Path
) -> tuple[tuple[Layer, ...], dict[str, Path]]:
    """Return the layers as they are packed then, and where the bytes of those lie that are not in the store.

    New files are written to `scratch`, two layers at a time; a layer that is packed so already stays as it is.
    Raises: ImageError for a damaged layer.
    """

    def one(layer: Layer) -> tuple[Layer, Path | None]:
        if compression.keeps(packing_of(store, layer)):
            return layer, None
        path = scratch / layer.diff_id.removeprefix("sha256:")
        return Layer(_pack(store, layer, compression, path), layer.diff_id), path

    different = {layer.diff_id: layer for layer in layers}
    with ThreadPoolExecutor(_WORKERS) as pool:
        packed = dict(zip(different, pool.map(one, different.values()), strict=True))
    files = {layer.blob.digest: path for layer, path in packed.values() if path is not None}
    return tuple(packed[layer.diff_id][0] for layer in layers), files


def _pack(store: Store, layer: Layer, compression: Compression, path: Path) -> Descriptor:
    with store.open_blob(layer.blob) as packed, path.open("wb") as file:
        out = BlobWriter(file)
        reader = LayerReader(packed, f"layer {layer.blob.digest}", Budget())
        with _packer(compression, out) as write:
            reader.copy(write)
        reader.verify(layer.blob.digest, layer.diff_id)
    return Descriptor(compression.media_type, out.digest, out.size_bytes)


@contextmanager
def _packer(compression: Compression, out: BlobWriter) -> Iterator[Callable[[bytes], object]]:
    """Yield the function that takes the tar; what is packed goes to `out`."""
    level = compression.level or _USUAL[compression.kind]
    if compression.kind == "none":
        yield out.write
    elif compression.kind == "gzip":
        deflate = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
        yield lambda data: out.write(deflate.compress(data))
        out.write(deflate.flush())
    else:
        import zstandard  # noqa: PLC0415 - 15 ms, only where it is asked for

        # Several threads give other bytes than one, but the same however many they are.
        packer = zstandard.ZstdCompressor(level=level, threads=-1)
        with packer.stream_writer(cast("IO[bytes]", out), closefd=False) as stream:
            yield stream.write

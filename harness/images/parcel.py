"""An image made ready to leave the store, and the forms in which it leaves: a layout directory, or one of two tars.

Every byte is hashed again on its way out, so that damage in the store is told here, and not where the image arrives.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from harness.errors import ImageError
from harness.images import oci
from harness.images.oci import Descriptor, Image, Layer
from harness.images.repack import Compression, repack
from harness.images.store import Store

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Parcel:
    """One image as it will be elsewhere. `files` holds where the bytes of each of its blobs lie, by digest."""

    name: str
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Layer, ...]
    files: dict[str, Path]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Manifest, configuration and layers, each once."""
        every = (self.manifest, self.config, *(layer.blob for layer in self.layers))
        return tuple({blob.digest: blob for blob in every}.values())

    @property
    def size_bytes(self) -> int:
        """What must be carried to a place that has nothing of it."""
        return sum(blob.size_bytes for blob in self.blobs)


@contextlib.contextmanager
def wrap(store: Store, name: str, compression: Compression | None = None) -> Iterator[Parcel]:
    """Yield an image of the store, made ready; None leaves its layers, and so its digest, as they are.

    Layers that are packed anew lie in a scratch directory of the store until the block ends.
    Raises: ImageError for an unknown name or a damaged layer.
    """
    with store.adding(), store.scratch() as scratch:
        image, full = store.find(name), oci.full_name(name)
        files = {blob.digest: store.blob_path(blob.digest) for blob in (image.manifest, image.config_blob)}
        files |= {layer.blob.digest: store.blob_path(layer.blob.digest) for layer in image.layers}
        layers = image.layers
        if compression is not None:
            layers, fresh = repack(store, image.layers, compression, scratch)
            files |= fresh
        if layers == image.layers:
            yield Parcel(full, image.manifest, image.config_blob, layers, files)
            return
        data = _manifest(store, image, layers)
        manifest = Descriptor(oci.MANIFEST, oci.sha256_digest(data), len(data))
        files[manifest.digest] = scratch / "manifest"
        files[manifest.digest].write_bytes(data)
        config = Descriptor(oci.CONFIG, image.config_blob.digest, image.config_blob.size_bytes)
        yield Parcel(full, manifest, config, layers, files)


def _manifest(store: Store, image: Image, layers: tuple[Layer, ...]) -> bytes:
    """Return the manifest of an image whose layers are packed anew: OCI's, with the annotations of the old one."""
    config = Descriptor(oci.CONFIG, image.config_blob.digest, image.config_blob.size_bytes)
    blobs = [Descriptor(_oci_type(layer.blob.media_type), layer.blob.digest, layer.blob.size_bytes) for layer in layers]
    annotations = store.read_document(image.manifest).get("annotations")
    document = oci.manifest_document(config, blobs)
    return oci.canonical_json({**document, "annotations": annotations} if annotations else document)


def _oci_type(media_type: str) -> str:
    """Docker's name of a gzip layer is the only one that a manifest of OCI may not hold."""
    return oci.LAYER + "+gzip" if media_type.endswith(".tar.gzip") else media_type


# Forms


def write_directory(parcel: Parcel, target: Path) -> None:
    """Write an OCI layout of one image to a directory, which is made. Raises: ImageError for a damaged blob."""
    (target / "blobs" / "sha256").mkdir(parents=True)
    for blob in parcel.blobs:
        with parcel.files[blob.digest].open("rb") as file, (target / _blob_name(blob)).open("wb") as out:
            content = _Hashed(file, blob)
            while chunk := content.read(_CHUNK_BYTES):
                out.write(chunk)
            content.check()
    for name, data in _layout(parcel).items():
        (target / name).write_bytes(data)


def write_oci_archive(parcel: Parcel, out: IO[bytes]) -> None:
    """Write an OCI layout as a tar, with one more file: manifest.json, for versions of docker that know no layout."""
    layers = [_blob_name(layer.blob) for layer in parcel.layers]
    documents = _layout(parcel) | {"manifest.json": _docker_manifest(parcel, _blob_name(parcel.config), layers)}
    _write_tar(out, documents, [(_blob_name(blob), blob) for blob in parcel.blobs], parcel)


def write_docker_archive(parcel: Parcel, out: IO[bytes]) -> None:
    """Write what `docker save` wrote before it knew OCI: manifest.json, the configuration, and a tar per layer."""
    config = f"{parcel.config.digest.removeprefix('sha256:')}.json"
    names = {layer.diff_id: f"{layer.diff_id.removeprefix('sha256:')}.tar" for layer in parcel.layers}
    manifest = _docker_manifest(parcel, config, [names[layer.diff_id] for layer in parcel.layers])
    contents = {config: parcel.config} | {names[layer.diff_id]: layer.blob for layer in parcel.layers}
    _write_tar(out, {"manifest.json": manifest}, list(contents.items()), parcel)


def _layout(parcel: Parcel) -> dict[str, bytes]:
    """Return the small files of a layout that holds one image."""
    manifest = parcel.manifest
    entry = Descriptor(manifest.media_type, manifest.digest, manifest.size_bytes, {oci.REF_NAME: parcel.name})
    return {
        "oci-layout": oci.canonical_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": oci.canonical_json(oci.index_document([entry])),
    }


def _docker_manifest(parcel: Parcel, config: str, layers: list[str]) -> bytes:
    return json.dumps([{"Config": config, "RepoTags": [parcel.name], "Layers": layers}], sort_keys=True).encode()


def _blob_name(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"


def _write_tar(out: IO[bytes], documents: dict[str, bytes], blobs: list[tuple[str, Descriptor]], of: Parcel) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, data in documents.items():
            _add(tar, name, len(data), io.BytesIO(data))
        for name, blob in blobs:
            with of.files[blob.digest].open("rb") as file:
                content = _Hashed(file, blob)
                _add(tar, name, blob.size_bytes, cast("IO[bytes]", content))
                content.check()


def _add(tar: tarfile.TarFile, name: str, size_bytes: int, content: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    try:
        tar.addfile(info, content)
    except OSError as error:
        if error.errno is None:  # tarfile's own: "unexpected end of data"
            raise ImageError(f"blob: {name}: damaged: shorter than its manifest says") from error
        raise


class _Hashed:
    """A blob's file, hashed while it is read."""

    def __init__(self, file: IO[bytes], blob: Descriptor) -> None:
        self._file, self._blob, self._sha256 = file, blob, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def check(self) -> None:
        if f"sha256:{self._sha256.hexdigest()}" != self._blob.digest:
            raise ImageError(f"blob: {self._blob.digest}: damaged: its bytes have another digest")

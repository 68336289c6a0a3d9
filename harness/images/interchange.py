"""Images in and out: OCI layout directories, OCI archives, and what `docker save` writes.

An archive is read once, from its beginning to its end, and nothing of it is ever unpacked to a path that it names: each
of its files goes into the store under its own digest, and the documents are then looked up there.
Source: image-spec image-layout.md; moby image/spec/v1.2 ("Combined Image JSON + Filesystem Changeset Format").
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from harness.errors import ImageError, UsageError
from harness.images import oci
from harness.images.layers import Budget, LayerReader
from harness.images.oci import Descriptor, Document, Image
from harness.images.store import Store

ExportFormat = Literal["oci-dir", "oci-archive"]

_DOCUMENT_BYTES = 8 << 20
_MAX_FILES = 10_000
_MAX_NESTED = 4
_SNIFF_BYTES = 4
_SNIFF = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}


@dataclass(slots=True)
class _Source:
    """A layout, wherever it lies: `document` reads a small file by name (None: there is none), `blob` stores one."""

    what: str
    document: Callable[[str], bytes | None]
    blob: Callable[[Descriptor], Descriptor]
    by_name: Callable[[str, str], Descriptor]


def import_image(source: Path, store: Store, *, name: str | None = None) -> dict[str, Image]:
    """Store every image of a layout directory, OCI archive or `docker save` tar; return them by their names.

    `name` names the image of a source that holds one. Raises: ImageError, UsageError.
    """
    if not source.exists():
        raise ImageError(f"import: {source}: no such file or directory")
    with store.adding(), _open_directory(source, store) if source.is_dir() else _open_archive(source, store) as opened:
        is_layout = opened.document("oci-layout") is not None
        found = _layout_manifests(opened, store) if is_layout else _docker_manifests(opened, store)
        if not found:
            raise ImageError(f"import: {source}: holds no image for linux/{oci.host_architecture()}")
        if name is not None and len({manifest.digest for _, manifest in found}) > 1:
            hint = "leave --name out: they keep their own names"
            raise UsageError(f"import: {source}: holds {len(found)} images: one name is not enough", hint=hint)
        named = {oci.full_name(name): found[0][1]} if name is not None else dict(_named(found, source))
        return {text: store.add_manifest(manifest, text) for text, manifest in named.items()}


def _named(found: Sequence[tuple[str, Descriptor]], source: Path) -> Iterator[tuple[str, Descriptor]]:
    """Give every image a full name: its own where it has one, a tag alone (skopeo) goes behind the file's name."""
    for text, manifest in found:
        full = text if ":" in text or "/" in text else f"{source.stem.lower()}:{text or 'latest'}"
        try:
            yield oci.full_name(full), manifest
        except UsageError as error:
            raise UsageError(error.message, hint="name it yourself: --name NAME[:TAG]") from error


# Where it lies


@contextlib.contextmanager
def _open_directory(path: Path, store: Store) -> Iterator[_Source]:
    if not (path / "oci-layout").is_file():
        raise ImageError(f"import: {path}: no OCI layout: it has no file oci-layout")

    def document(name: str) -> bytes | None:
        file = path / name
        return file.read_bytes()[:_DOCUMENT_BYTES] if file.is_file() else None

    def blob(wanted: Descriptor) -> Descriptor:
        if store.has_blob(wanted):
            return wanted
        file = path / "blobs" / "sha256" / oci.check_digest(wanted.digest, "blob").removeprefix("sha256:")
        try:
            with file.open("rb") as content:
                return store.add_stream(wanted.media_type, content, expect=wanted.digest)
        except FileNotFoundError as error:
            raise ImageError(f"import: {path}: blob {wanted.digest}: missing") from error

    def by_name(name: str, _: str) -> Descriptor:
        raise ImageError(f"import: {path}: {name}: only an archive is read by file name")

    yield _Source(f"import: {path}", document, blob, by_name)


@dataclass(slots=True)
class _Archive:
    """What one pass over an archive found: documents, blobs in the store by file name, links between names."""

    what: str
    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, content: IO[bytes] | None, store: Store) -> None:
        name = os.path.normpath(member.name)
        if len(self.blobs) + len(self.documents) + len(self.links) > _MAX_FILES:
            raise ImageError(f"{self.what}: more than {_MAX_FILES} files: refused")
        if member.issym() or member.islnk():
            base = os.path.dirname(name) if member.issym() else ""  # noqa: PTH120 - a name in an archive
            self.links[name] = os.path.normpath(os.path.join(base, member.linkname))  # noqa: PTH118
        elif content is not None and name in {"oci-layout", "index.json", "manifest.json", "repositories"}:
            if member.size > _DOCUMENT_BYTES:
                raise ImageError(f"{self.what}: {name}: {member.size} bytes: refused")
            self.documents[name] = content.read()
        elif content is not None:
            expect = f"sha256:{name.rpartition('/')[2]}" if name.startswith("blobs/sha256/") else None
            self.blobs[name] = store.add_stream("", content, expect=expect)

    def by_name(self, name: str, media_type: str) -> Descriptor:
        name = os.path.normpath(name)
        blob = self.blobs.get(self.links.get(name, name))
        if blob is None:
            raise ImageError(f"{self.what}: {name}: missing")
        return Descriptor(media_type, blob.digest, blob.size_bytes)

    def blob(self, wanted: Descriptor) -> Descriptor:
        found = self.by_name(f"blobs/sha256/{wanted.digest.removeprefix('sha256:')}", wanted.media_type)
        if found.size_bytes != wanted.size_bytes:
            raise ImageError(f"{self.what}: blob {wanted.digest}: has {found.size_bytes} bytes, not as it says")
        return wanted


@contextlib.contextmanager
def _open_archive(path: Path, store: Store) -> Iterator[_Source]:
    archive = _Archive(f"import: {path}")
    with path.open("rb") as packed:
        reader = LayerReader(packed, archive.what, Budget(entries=_MAX_FILES))
        for member, content in reader.members():
            with reader.translated():
                archive.add(member, content, store)

    def by_name(name: str, media_type: str) -> Descriptor:
        blob = archive.by_name(name, media_type)
        if media_type != oci.LAYER:
            return blob
        with store.open_blob(blob) as content:
            start = content.read(_SNIFF_BYTES)
        suffix = next((suffix for magic, suffix in _SNIFF.items() if start.startswith(magic)), "")
        return Descriptor(oci.LAYER + suffix, blob.digest, blob.size_bytes)

    yield _Source(archive.what, archive.documents.get, archive.blob, by_name)


# What it holds


def _layout_manifests(source: _Source, store: Store) -> list[tuple[str, Descriptor]]:
    """Store the images that index.json leads to; return (name or tag or "", manifest)."""
    data = source.document("index.json")
    if data is None:
        raise ImageError(f"{source.what}: index.json: missing")
    entries = oci.parse_json(data, f"{source.what}: index.json").get("manifests")
    if not isinstance(entries, list):
        raise ImageError(f"{source.what}: index.json: damaged: no list of manifests")
    found = []
    for entry in entries:
        top = oci.parse_descriptor(entry, f"{source.what}: index.json")
        name = top.annotations.get("io.containerd.image.name") or top.annotations.get(oci.REF_NAME, "")
        manifest = _own_platform(source, store, top)
        if manifest is not None and _platform_fits(entry):
            _take_manifest(source, store, manifest)
            found.append((name, manifest))
    return found


def _platform_fits(entry: Document) -> bool:
    platform = entry.get("platform")
    if not isinstance(platform, dict):
        return True
    return (platform.get("os"), platform.get("architecture")) == ("linux", oci.host_architecture())


def _own_platform(source: _Source, store: Store, top: Descriptor, depth: int = 0) -> Descriptor | None:
    """Follow nested indexes to the manifest for this machine; None where there is none."""
    if top.media_type in oci.MANIFESTS:
        return top
    if top.media_type not in oci.INDEXES or depth > _MAX_NESTED:
        return None
    entries = store.read_document(source.blob(top)).get("manifests")
    for entry in entries if isinstance(entries, list) else []:
        below = oci.parse_descriptor(entry, f"{source.what}: {top.digest}")
        if _platform_fits(entry) and (manifest := _own_platform(source, store, below, depth + 1)):
            return manifest
    return None


def _take_manifest(source: _Source, store: Store, manifest: Descriptor) -> None:
    document = store.read_document(source.blob(manifest))
    config, layers = oci.parse_manifest(document, f"{source.what}: {manifest.digest}")
    for blob in (config, *layers):
        source.blob(blob)


def _docker_manifests(source: _Source, store: Store) -> list[tuple[str, Descriptor]]:
    """Store the images of a `docker save` without an OCI layout, with a manifest that we write; return them by name."""
    data = source.document("manifest.json")
    if data is None:
        raise ImageError(f"{source.what}: neither an OCI layout nor what `docker save` writes")
    entries = oci.parse_json(b'{"manifests":' + data + b"}", f"{source.what}: manifest.json").get("manifests")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        paths = entry.get("Layers") if isinstance(entry, dict) else None
        if not isinstance(paths, list):
            raise ImageError(f"{source.what}: manifest.json: damaged: an image without a list of layers")
        config = source.by_name(str(entry.get("Config")), oci.CONFIG)
        layers = [source.by_name(str(path), oci.LAYER) for path in paths]
        manifest = store.add_bytes(oci.MANIFEST, oci.canonical_json(oci.manifest_document(config, layers)))
        found += [(str(tag), manifest) for tag in entry.get("RepoTags") or [""]]
    return found


# Out


def export_image(store: Store, name: str, target: Path, fmt: ExportFormat) -> None:
    """Write an image as an OCI layout directory, or as an OCI archive that `docker load` takes too.

    The same image always gives the same bytes. Raises: ImageError; UsageError when the target exists.
    """
    if target.exists():
        raise UsageError(f"export: {target}: exists already", hint="choose another target, or remove it first")
    with store.adding():
        image = store.find(name)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            if fmt == "oci-dir":
                _export_directory(store, image, oci.full_name(name), partial)
            else:
                _export_archive(store, image, oci.full_name(name), partial)
            partial.rename(target)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)
            partial.unlink(missing_ok=True)


def _documents(image: Image, name: str) -> dict[str, bytes]:
    """Return the small files of a layout that holds one image."""
    manifest = image.manifest
    entry = Descriptor(manifest.media_type, manifest.digest, manifest.size_bytes, {oci.REF_NAME: name})
    return {
        "oci-layout": oci.canonical_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": oci.canonical_json(oci.index_document([entry])),
    }


def _blobs(store: Store, image: Image) -> Iterator[tuple[str, Path]]:
    """Yield every blob of an image once, verified: its name in a layout and its file."""
    every = (image.manifest, image.config_blob, *(layer.blob for layer in image.layers))
    for digest in dict.fromkeys(blob.digest for blob in every):
        path = store.blob_path(digest)
        with path.open("rb") as file:
            if f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" != digest:
                raise ImageError(f"blob: {digest}: damaged: its bytes have another digest")
        yield f"blobs/sha256/{path.name}", path


def _export_directory(store: Store, image: Image, name: str, target: Path) -> None:
    (target / "blobs" / "sha256").mkdir(parents=True)
    for blob_name, path in _blobs(store, image):
        shutil.copyfile(path, target / blob_name)
    for file_name, data in _documents(image, name).items():
        (target / file_name).write_bytes(data)


def _export_archive(store: Store, image: Image, name: str, target: Path) -> None:
    """Write a tar with one more file than the layout: manifest.json, for versions of docker that know no layout."""
    docker = {
        "Config": _blob_name(image.config_blob),
        "RepoTags": [name],
        "Layers": [_blob_name(layer.blob) for layer in image.layers],
    }
    documents = {**_documents(image, name), "manifest.json": json.dumps([docker], sort_keys=True).encode()}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for file_name, data in documents.items():
            info = tarfile.TarInfo(file_name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for blob_name, path in _blobs(store, image):
            info = tarfile.TarInfo(blob_name)
            info.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(info, file)


def _blob_name(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.digest.removeprefix('sha256:')}"

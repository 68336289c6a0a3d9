"""Where images come from: an OCI layout directory, a `dir:` directory, or a tar, each read through the same small seam.

An archive is read once, from its beginning to its end, and nothing of it is ever unpacked to a path that it names: each
of its files goes into the store under its own digest, and the documents are then looked up there.
Source: image-spec image-layout.md; moby image/spec/v1.2 ("Combined Image JSON + Filesystem Changeset Format");
containers-transports(5) for `dir:`.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from harness.errors import ImageError
from harness.images import oci
from harness.images.layers import Budget, LayerReader
from harness.images.oci import Descriptor
from harness.images.store import Store

_DOCUMENT_BYTES = 8 << 20
_MAX_FILES = 10_000
_SNIFF_BYTES = 4
_SNIFF = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}
_DOCUMENTS = frozenset({"oci-layout", "index.json", "manifest.json"})


@dataclass(frozen=True, slots=True)
class Source:
    """An image's files, wherever they lie, for one import.

    `document` reads a small file by name (None: there is none). `blob` puts what a descriptor points at into the store,
    its digest verified. `by_name` does so for a file that is known by its name alone, and takes its media type.
    """

    what: str
    document: Callable[[str], bytes | None]
    blob: Callable[[Descriptor], Descriptor]
    by_name: Callable[[str, str], Descriptor]


def open_directory(path: Path, store: Store) -> Source:
    """Return the source in an OCI layout directory, or in what `skopeo copy ... dir:` writes. Raises: ImageError."""
    what = f"import: {path}"
    if (path / "oci-layout").is_file():
        documents = {name: _read_document(path / name) for name in _DOCUMENTS if (path / name).is_file()}
        return _directory(what, documents, lambda digest: path / "blobs" / "sha256" / digest, store)
    if (path / "version").is_file() and (path / "manifest.json").is_file():
        manifest = _read_document(path / "manifest.json")
        own = oci.sha256_digest(manifest).removeprefix("sha256:")
        documents = {"oci-layout": b"{}", "index.json": _index_of(manifest, what)}
        return _directory(what, documents, lambda digest: path / ("manifest.json" if digest == own else digest), store)
    hint = "a root file system becomes an image by a Containerfile: FROM scratch, COPY . /"
    raise ImageError(f"{what}: no OCI layout: it has no file oci-layout", hint=hint)


def _directory(what: str, documents: dict[str, bytes], file_of: Callable[[str], Path], store: Store) -> Source:
    def blob(wanted: Descriptor) -> Descriptor:
        if store.has_whole_blob(wanted):
            return wanted
        file = file_of(oci.check_digest(wanted.digest, f"{what}: blob").removeprefix("sha256:"))
        try:
            with file.open("rb") as content:
                return store.add_stream(wanted.media_type, content, expect=wanted.digest)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ImageError(f"{what}: blob {wanted.digest}: missing") from error

    def by_name(name: str, _: str) -> Descriptor:
        raise ImageError(f"{what}: {name}: only an archive is read by file name")

    return Source(what, documents.get, blob, by_name)


def _read_document(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_DOCUMENT_BYTES + 1)
    if len(data) > _DOCUMENT_BYTES:
        raise ImageError(f"import: {path}: longer than {_DOCUMENT_BYTES} bytes: refused")
    return data


def _index_of(manifest: bytes, what: str) -> bytes:
    """Return an index of one manifest, for a form that has none."""
    media_type = str(oci.parse_json(manifest, f"{what}: manifest.json").get("mediaType") or oci.MANIFEST)
    entry = Descriptor(media_type, oci.sha256_digest(manifest), len(manifest))
    return oci.canonical_json(oci.index_document([entry]))


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
        elif content is not None and name in _DOCUMENTS:
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


def open_archive(packed: IO[bytes], what: str, store: Store) -> Source:
    """Read a tar (plain, gzip or zstd) to its end and return the source in it. Raises: ImageError."""
    archive = _Archive(what)
    reader = LayerReader(packed, what, Budget(entries=_MAX_FILES))
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

    return Source(what, archive.documents.get, archive.blob, by_name)

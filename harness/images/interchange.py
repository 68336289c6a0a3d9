"""Images in and out: OCI layout directories, OCI archives, and what `docker save` writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from harness.errors import ImageError, UsageError
from harness.images import oci
from harness.images.disk_errors import disk_errors_told
from harness.images.oci import Descriptor, Document, Image
from harness.images.parcel import Parcel, wrap, write_directory, write_docker_archive, write_oci_archive
from harness.images.repack import Compression
from harness.images.sources import Source, open_archive, open_directory
from harness.images.store import Store

ExportFormat = Literal["oci-dir", "oci-archive", "docker-archive"]
Log = Callable[[str], None]

_MAX_NESTED = 4
_ROOM = "make room there; with --compress the store needs some, too, while it lasts"


# In


def import_image(
    source: Path | IO[bytes], store: Store, *, name: str | None = None, log: Log = lambda _: None
) -> dict[str, Image]:
    """Store every image of a layout directory, OCI archive or `docker save` tar; return them by their names.

    An open file is read as an archive, from where it is to its end. `name` names the image of a source that holds one.
    `log` is told which platform was taken where there was a choice.

    Raises: ImageError, UsageError.
    """
    what = f"import: {source if isinstance(source, Path) else 'standard input'}"
    with store.adding(), disk_errors_told(what, f"make room where the store is, {store.path}: harness image gc"):
        opened = _open(source, store)
        reading = _Reading(opened, store, log)
        found = reading.layout() if opened.document("oci-layout") is not None else reading.docker()
        if not found:
            others = ", ".join(sorted(reading.others))
            only = f": only {others}" if others else ""
            raise ImageError(f"{opened.what}: holds no image for linux/{oci.host_architecture()}{only}")
        if name is not None and len({manifest.digest for _, manifest in found}) > 1:
            hint = "leave --name out: they keep their own names"
            raise UsageError(f"{opened.what}: holds {len(found)} images: one name is not enough", hint=hint)
        stem = source.stem if isinstance(source, Path) else ""
        named = {oci.full_name(name): found[0][1]} if name is not None else dict(_named(found, stem))
        return {text: store.add_manifest(manifest, text) for text, manifest in named.items()}


def _open(source: Path | IO[bytes], store: Store) -> Source:
    if not isinstance(source, Path):
        return open_archive(source, "import: standard input", store)
    if not source.exists():
        raise ImageError(f"import: {source}: no such file or directory")
    if source.is_dir():
        return open_directory(source, store)
    with source.open("rb") as packed:
        return open_archive(packed, f"import: {source}", store)


def _named(found: Sequence[tuple[str, Descriptor]], stem: str) -> Iterator[tuple[str, Descriptor]]:
    """Give every image a full name: its own where it has one, a tag alone (skopeo) goes behind the file's name."""
    for text, manifest in found:
        full = text if ":" in text or "/" in text else f"{stem.lower()}:{text or 'latest'}"
        try:
            yield oci.full_name(full), manifest
        except UsageError as error:
            raise UsageError(error.message, hint="name it yourself: --name NAME[:TAG]") from error


@dataclass(slots=True)
class _Reading:
    """One import. `others` are the platforms that were passed over."""

    source: Source
    store: Store
    log: Log
    others: set[str] = field(default_factory=set)

    def layout(self) -> list[tuple[str, Descriptor]]:
        """Store the images that index.json leads to; return (name or tag or "", manifest)."""
        data = self.source.document("index.json")
        if data is None:
            raise ImageError(f"{self.source.what}: index.json: missing")
        index = oci.parse_json(data, f"{self.source.what}: index.json")
        found = []
        for entry, top in self._entries(index, "index.json"):
            name = top.annotations.get("io.containerd.image.name") or top.annotations.get(oci.REF_NAME, "")
            manifest = self._own_platform(top) if self._fits(entry) else None
            if manifest is not None and self._take(manifest):
                found.append((name, manifest))
        if found and self.others:
            self.log(f"taken: linux/{oci.host_architecture()}; also there: {', '.join(sorted(self.others))}")
        return found

    def _entries(self, index: Document, where: str) -> list[tuple[Document, Descriptor]]:
        entries, what = index.get("manifests"), f"{self.source.what}: {where}"
        if not isinstance(entries, list):
            raise ImageError(f"{what}: damaged: no list of manifests")
        return [(entry, oci.parse_descriptor(entry, what)) for entry in entries]

    def _fits(self, entry: Document) -> bool:
        platform = entry.get("platform")
        return not isinstance(platform, dict) or self._is_ours(platform)

    def _is_ours(self, platform: Document) -> bool:
        """Whether a platform is this machine's; where it says nothing it is believed to be."""
        system = str(platform.get("os") or "linux")
        machine = str(platform.get("architecture") or oci.host_architecture())
        if (system, machine) == ("linux", oci.host_architecture()):
            return True
        if machine != "unknown":  # an attestation, which `docker buildx` puts beside each image
            self.others.add(f"{system}/{machine}")
        return False

    def _own_platform(self, top: Descriptor, depth: int = 0) -> Descriptor | None:
        """Follow nested indexes to the manifest for this machine; None where there is none."""
        if top.media_type in oci.MANIFESTS:
            return top
        if top.media_type not in oci.INDEXES or depth > _MAX_NESTED:
            return None
        index = self.store.read_document(self.source.blob(top))
        fitting = [below for entry, below in self._entries(index, top.digest) if self._fits(entry)]
        return next((found for below in fitting if (found := self._own_platform(below, depth + 1))), None)

    def _take(self, manifest: Descriptor) -> bool:
        """Store an image's blobs; False, and nothing more is stored, where it is for another machine."""
        source = self.source
        document = self.store.read_document(source.blob(manifest))
        config, layers = oci.parse_manifest(document, f"{source.what}: {manifest.digest}")
        if not self._is_ours(self.store.read_document(source.blob(config))):
            return False
        for blob in layers:
            source.blob(blob)
        return True

    def docker(self) -> list[tuple[str, Descriptor]]:
        """Store the images of a `docker save` without an OCI layout, with manifests that we write; return the same."""
        source = self.source
        data = source.document("manifest.json")
        if data is None:
            raise ImageError(f"{source.what}: neither an OCI layout nor what `docker save` writes")
        entries = oci.parse_json(b'{"manifests":' + data + b"}", f"{source.what}: manifest.json").get("manifests")
        found = []
        for entry in entries if isinstance(entries, list) else []:
            paths = entry.get("Layers") if isinstance(entry, dict) else None
            if not isinstance(paths, list):
                raise ImageError(f"{source.what}: manifest.json: damaged: an image without a list of layers")
            tags = entry.get("RepoTags") or [""]
            if not isinstance(tags, list):
                raise ImageError(f"{source.what}: manifest.json: damaged: RepoTags is no list")
            config = source.by_name(str(entry.get("Config")), oci.CONFIG)
            if not self._is_ours(self.store.read_document(config)):
                continue
            layers = [source.by_name(str(path), oci.LAYER) for path in paths]
            document = oci.canonical_json(oci.manifest_document(config, layers))
            manifest = self.store.add_bytes(oci.MANIFEST, document)
            found += [(str(tag), manifest) for tag in tags]
        return found


# Out


def export_image(
    store: Store, name: str, target: Path | IO[bytes], fmt: ExportFormat, compression: Compression | None = None
) -> Parcel:
    """Write an image to a new file or directory (an archive also to an open file); return what was written.

    Without `compression` layers stay as they are stored, and the digest with them; in a docker-archive, which has no
    digest of its own, they are then plain tars, as `docker save` writes them. The same image always gives the same
    bytes.

    Raises: ImageError; UsageError when the target exists, or is no place for a directory.
    """
    if compression is None and fmt == "docker-archive":
        compression = Compression("none")
    if not isinstance(target, Path):
        if fmt == "oci-dir":
            raise UsageError(
                "export: an OCI directory cannot be a stream", hint="choose an archive: --format oci-archive"
            )
        with disk_errors_told("export: standard output", _ROOM), wrap(store, name, compression) as parcel:
            _write_archive(parcel, target, fmt)
            return parcel
    if target.exists():
        raise UsageError(f"export: {target}: exists already", hint="choose another target, or remove it first")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"export: {target}: the directory that is to hold it does not exist")
    with disk_errors_told(f"export: {target}", _ROOM), wrap(store, name, compression) as parcel:
        _write_path(parcel, target, fmt)
        return parcel


def _write_path(parcel: Parcel, target: Path, fmt: ExportFormat) -> None:
    """Write beside the target and rename: what carries its name is whole."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if fmt == "oci-dir":
            write_directory(parcel, partial)
        else:
            with partial.open("xb") as out:
                _write_archive(parcel, out, fmt)
        partial.rename(target)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _write_archive(parcel: Parcel, out: IO[bytes], fmt: ExportFormat) -> None:
    write = write_docker_archive if fmt == "docker-archive" else write_oci_archive
    write(parcel, out)

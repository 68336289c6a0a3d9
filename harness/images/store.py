"""The image store: an OCI image layout on disk that many processes may write at once.

    oci-layout  index.json  blobs/sha256/HEX      the layout: any OCI tool can read it
    trees/HEX  trees/HEX.json                     unpacked root trees, by chain id   (harness.images.roots)
    layers/HEX  layers/HEX.json                   unpacked single layers, by chain id (harness.images.stack)
    cache/KEY.json                                the build cache: `pins`, the blobs that each record keeps
    disks/HEX.erofs                               disks of VMs, by root digest       (harness.images.disk)
    tmp/  locks/                                  work in progress; its guards

Nothing half made is ever visible: everything is written under tmp/, synced and renamed into place, so a process that is
killed leaves only files in tmp/, which the next collection (harness.images.collection) removes. Two locks (flock, gone
with their process) order the rest: writers share `store` while they add what no name refers to yet, a collection takes
it alone; `index` guards index.json.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from harness.errors import ImageError
from harness.images import oci
from harness.images.oci import Descriptor, Document, Image, Layer

_CHUNK_BYTES = 1 << 20
_DOCUMENT_BYTES = 8 << 20  # a manifest or configuration beyond this is an attack; registries allow 4 MiB
_LAYOUT = {"imageLayoutVersion": "1.0.0"}


class BlobWriter:
    """Takes the bytes of a blob and hashes them on the way; becomes visible only by `Store.add_blob`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha256.hexdigest()

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)
        return len(data)


class Store:
    """The store in one directory, made when it does not exist. Cheap to open."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        for name in ("blobs/sha256", "trees", "layers", "disks", "cache", "tmp", "locks"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        if not (self.path / "oci-layout").exists():
            with self.lock("index"):
                if not (self.path / "index.json").exists():
                    self._write_index([])
                self.write_atomically(self.path / "oci-layout", oci.canonical_json(_LAYOUT))

    # Locks and atomic writes

    @contextlib.contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold a lock of the store by name; it ends with the block, or with the process."""
        with (self.path / "locks" / name).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    def adding(self) -> contextlib.AbstractContextManager[None]:
        """Keep `collect` away while blobs are added that no name refers to yet."""
        return self.lock("store", shared=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a fresh directory on the store's own file system, for work that ends with a rename."""
        path = Path(tempfile.mkdtemp(dir=self.path / "tmp"))
        try:
            with self._told():
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def write_atomically(self, path: Path, data: bytes) -> None:
        """Replace a file so that readers see the old or the new bytes, whatever happens."""
        with self._told(), tempfile.NamedTemporaryFile(dir=self.path / "tmp", delete=False) as file:
            try:
                file.write(data)
                commit_file(file, Path(file.name), path)
            finally:
                Path(file.name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say what it means when there is no room left."""
        try:
            yield
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            message = f"image store: {self.path}: {error.strerror}: nothing was added"
            raise ImageError(message, hint="make room: harness image rm, harness image gc --all") from error

    def pin(self, path: Path) -> bytes:
        """Return a record's bytes and keep it from `collect` as long as this store object lives."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return os.pread(descriptor, _DOCUMENT_BYTES, 0)

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Return where a blob is or would be."""
        return self.path / "blobs" / "sha256" / oci.check_digest(digest, "blob").removeprefix("sha256:")

    def has_blob(self, blob: Descriptor) -> bool:
        """Return whether a blob of that digest and size is stored."""
        path = self.blob_path(blob.digest)
        return path.is_file() and path.stat().st_size == blob.size_bytes

    def has_whole_blob(self, blob: Descriptor) -> bool:
        """Return whether a blob is stored and its bytes are still those of its digest: all of them are read."""
        if not self.has_blob(blob):
            return False
        with self.blob_path(blob.digest).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == blob.digest

    def add_blob(
        self, media_type: str, write: Callable[[BlobWriter], None], *, expect: str | None = None
    ) -> Descriptor:
        """Store what `write` writes and return its descriptor; the same bytes twice are one blob.

        A blob that comes from elsewhere (`expect`) replaces one that is stored: importing an image anew repairs it.

        Raises: ImageError when the digest is not the expected one; then nothing is stored.
        """
        with self._told(), tempfile.NamedTemporaryFile(dir=self.path / "tmp", delete=False) as file:
            temporary = Path(file.name)
            try:
                writer = BlobWriter(file)
                write(writer)
                if expect is not None and writer.digest != expect:
                    raise ImageError(f"blob: {expect}: damaged: its bytes have the digest {writer.digest}")
                blob = Descriptor(media_type, writer.digest, writer.size_bytes)
                if expect is not None or not self.has_blob(blob):
                    commit_file(file, temporary, self.blob_path(blob.digest))
            finally:
                temporary.unlink(missing_ok=True)
        return blob

    def add_bytes(self, media_type: str, data: bytes) -> Descriptor:
        """Store a small blob."""

        def write(writer: BlobWriter) -> None:
            writer.write(data)

        return self.add_blob(media_type, write)

    def add_stream(self, media_type: str, source: IO[bytes], *, expect: str | None = None) -> Descriptor:
        """Store a blob from an open file."""

        def write(writer: BlobWriter) -> None:
            while chunk := source.read(_CHUNK_BYTES):
                writer.write(chunk)

        return self.add_blob(media_type, write, expect=expect)

    def open_blob(self, blob: Descriptor) -> IO[bytes]:
        """Return the blob as an open file; whoever reads it verifies it. Raises: ImageError when it is missing."""
        try:
            return self.blob_path(blob.digest).open("rb")
        except FileNotFoundError as error:
            message = f"blob: {blob.digest}: missing from the store {self.path}"
            raise ImageError(message, hint="import, bootstrap or build the image again") from error

    def read_document(self, blob: Descriptor) -> Document:
        """Return a manifest or configuration, its digest verified. Raises: ImageError."""
        with self.open_blob(blob) as file:
            data = file.read(_DOCUMENT_BYTES + 1)
        if len(data) > _DOCUMENT_BYTES:
            raise ImageError(f"blob: {blob.digest}: longer than {_DOCUMENT_BYTES} bytes: no manifest or configuration")
        if oci.sha256_digest(data) != blob.digest:
            raise ImageError(f"blob: {blob.digest}: damaged: its bytes have another digest")
        return oci.parse_json(data, f"blob {blob.digest}")

    # Images and names

    def add_image(self, document: Document, layers: Sequence[Layer], name: str) -> Image:
        """Store the configuration and manifest of an image whose layers are stored, and name it."""
        config = self.add_bytes(oci.CONFIG, oci.canonical_json(document))
        manifest = oci.manifest_document(config, [layer.blob for layer in layers])
        return self.add_manifest(self.add_bytes(oci.MANIFEST, oci.canonical_json(manifest)), name)

    def add_manifest(self, manifest: Descriptor, name: str) -> Image:
        """Check a stored image (every blob there, every document sound) and name it. Raises: ImageError."""
        image = self.read_image(manifest)
        for blob in (image.config_blob, *(layer.blob for layer in image.layers)):
            if not self.has_blob(blob):
                raise ImageError(f"image: {name}: blob {blob.digest} is missing or has another size than it says")
        self._change_index(set_names={oci.full_name(name): image.manifest})
        return image

    def read_image(self, manifest: Descriptor) -> Image:
        """Return the image behind a manifest. Raises: ImageError when a document is missing or damaged."""
        what = f"image {manifest.digest}"
        config, blobs = oci.parse_manifest(self.read_document(manifest), what)
        document = self.read_document(config)
        diff_ids = oci.parse_diff_ids(document, what)
        if len(diff_ids) != len(blobs):
            raise ImageError(f"{what}: damaged: {len(blobs)} layers, but {len(diff_ids)} diff_ids")
        layers = tuple(Layer(blob, diff_id) for blob, diff_id in zip(blobs, diff_ids, strict=True))
        plain = Descriptor(manifest.media_type, manifest.digest, manifest.size_bytes)
        return Image(plain, config, layers, document, oci.parse_config(document, what))

    def names(self) -> dict[str, Descriptor]:
        """Return every name with its manifest, sorted by name."""
        entries = self.entries()
        return {name: e for name, e in sorted((e.annotations.get(oci.REF_NAME, ""), e) for e in entries) if name}

    def find(self, name: str) -> Image:
        """Return an image by NAME[:TAG]. Raises: ImageError with the nearest names when there is none."""
        wanted, names = oci.full_name(name), self.names()
        if wanted not in names:
            raise ImageError(f"image: {wanted}: not in the store {self.path}", hint=_missing_hint(wanted, list(names)))
        return self.read_image(names[wanted])

    def remove(self, name: str) -> None:
        """Take a name away; `collect` then removes what only it referred to. Raises: ImageError when unknown."""
        wanted = oci.full_name(name)
        if wanted not in self.names():
            hint = _nearest(wanted, list(self.names()))
            raise ImageError(f"image: {wanted}: not in the store {self.path}", hint=hint)
        self._change_index(remove=wanted)

    def entries(self) -> list[Descriptor]:
        """Return what index.json lists, named or not. Raises: ImageError when it is damaged."""
        document = oci.parse_json((self.path / "index.json").read_bytes(), f"{self.path}/index.json")
        entries = document.get("manifests")
        if not isinstance(entries, list):
            raise ImageError(f"{self.path}/index.json: damaged: no list of manifests")
        return [oci.parse_descriptor(entry, f"{self.path}/index.json") for entry in entries]

    def _write_index(self, entries: Sequence[Descriptor]) -> None:
        self.write_atomically(self.path / "index.json", oci.canonical_json(oci.index_document(entries)))

    def _change_index(self, *, set_names: Mapping[str, Descriptor] | None = None, remove: str = "") -> None:
        new = set_names or {}
        with self.lock("index"):
            kept = [e for e in self.entries() if e.annotations.get(oci.REF_NAME) not in {*new, remove}]
            added = [Descriptor(m.media_type, m.digest, m.size_bytes, {oci.REF_NAME: n}) for n, m in new.items()]
            self._write_index([*kept, *added])


def commit_file(file: IO[bytes], temporary: Path, path: Path) -> None:
    """Make an open temporary file durable (mode 0644) and rename it into place."""
    file.flush()
    os.fchmod(file.fileno(), 0o644)
    os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _nearest(wanted: str, names: Sequence[str]) -> str | None:
    """Return the hint with the name that was most likely meant; the tag, which most names share, makes none alike."""
    repository, _, tag = wanted.rpartition(":")
    near = difflib.get_close_matches(repository, {name.rpartition(":")[0] for name in names}, n=1)
    tags = [name.rpartition(":")[2] for name in names if near and name.rpartition(":")[0] == near[0]]
    closest = difflib.get_close_matches(tag, sorted(tags), n=1, cutoff=0.0)
    return f"did you mean '{near[0]}:{closest[0]}'?" if closest else None


def _missing_hint(wanted: str, names: Sequence[str]) -> str:
    if wanted == "busybox:latest":
        return "make it: harness image bootstrap busybox"
    near = _nearest(wanted, names)
    if near is None and wanted.startswith("debian:"):
        return f"make it: harness image bootstrap {wanted}"
    return near or f"see `harness image ls`; fetch it: harness image pull {wanted}; from a file: harness image import"

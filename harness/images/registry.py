"""Images from registries and to them, over the OCI distribution protocol, which skopeo speaks.

What comes is asked for by digest, after the tag was looked up once, and every byte is hashed again here before a name
leads to it. Manifest and configuration are kept as the registry has them, so an image has the same digest there and
here. Layers that the store has are not fetched again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.errors import CommandError, ImageError, UsageError
from harness.host.process import run
from harness.images import oci, skopeo
from harness.images.disk_errors import disk_errors_told
from harness.images.interchange import Log, import_image
from harness.images.oci import Descriptor, Document, Image
from harness.images.parcel import wrap, write_directory
from harness.images.references import Reference, parse_reference
from harness.images.repack import Compression
from harness.images.skopeo import ASK_TIMEOUT_NS, OPEN_ACCESS, Access
from harness.images.store import Store
from harness.model.units import format_bytes

Progress = Callable[[int, int], None]  # bytes that are here, bytes that are wanted

_MAX_NESTED = 4
_ROOM = "make room where the store is (harness image gc); what goes and comes lies there for a while"
_PROGRESS_PERIOD_S = 0.2
_PLAIN_TO_GZIP = Compression("gzip", plain_only=True)


def pull_image(
    text: str,
    store: Store,
    *,
    name: str | None = None,
    access: Access = OPEN_ACCESS,
    log: Log = lambda _: None,
    progress: Progress = lambda _done, _total: None,
) -> tuple[str, Image]:
    """Fetch an image into the store; return its name there and the image. What is there already only gets the name.

    `text` is [REGISTRY/]NAME[:TAG] or NAME@DIGEST (of an image, or of an index of platforms). `name` is what it is to
    be called here.

    Raises: UsageError; CapabilityError without skopeo; ImageError for all that a registry can refuse, and for damage.
    """
    reference = parse_reference(text)
    local = oci.full_name(name) if name is not None else reference.local_name
    with disk_errors_told(f"pull: {reference}", _ROOM), store.adding(), store.scratch() as scratch:
        manifest, data = _own_manifest(reference, access, log)
        image = reference.at(manifest.digest)
        config, layers = oci.parse_manifest(oci.parse_json(data, f"pull: {image}"), f"pull: {image}")
        blobs = scratch / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        wanted = _link_known(store, layers, blobs)
        _tell(reference, layers, wanted, log)
        if wanted:
            with _watched(scratch, sum(blob.size_bytes for blob in wanted), progress):
                _fetch(image, scratch, access)
        _blob_file(blobs, manifest).write_bytes(data)
        if not store.has_blob(config):
            _blob_file(blobs, config).write_bytes(skopeo.inspect_raw(image, access, config=True))
        _write_layout(scratch, manifest)
        return local, import_image(scratch, store, name=local)[local]


def _own_manifest(reference: Reference, access: Access, log: Log) -> tuple[Descriptor, bytes]:
    """Return the manifest for this machine, found through nested indexes, and its bytes, their digest checked."""
    for _ in range(_MAX_NESTED):
        data = skopeo.inspect_raw(reference, access)
        found = oci.sha256_digest(data)
        if reference.digest and found != reference.digest:
            raise ImageError(f"pull: {reference}: damaged: its bytes have the digest {found}")
        document = oci.parse_json(data, f"pull: {reference}")
        if "manifests" not in document:
            if document.get("schemaVersion") != 2:
                raise ImageError(f"pull: {reference}: a manifest of Docker's first form, which is not read")
            return Descriptor(str(document.get("mediaType") or oci.MANIFEST), found, len(data)), data
        reference = reference.at(_own_entry(document, reference, log))
    raise ImageError(f"pull: {reference}: more than {_MAX_NESTED} indexes one in another: refused")


def _own_entry(index: Document, reference: Reference, log: Log) -> str:
    """Return the digest of the entry for this machine in an index. Raises: ImageError."""
    mine, what, others = f"linux/{oci.host_architecture()}", f"pull: {reference}", set[str]()
    chosen = ""
    entries = index.get("manifests")
    for entry in entries if isinstance(entries, list) else []:
        digest = oci.parse_descriptor(entry, what).digest
        platform = entry.get("platform")
        platform = platform if isinstance(platform, dict) else {}
        there = f"{platform.get('os', 'linux')}/{platform.get('architecture', oci.host_architecture())}"
        if there == mine:
            chosen = chosen or digest
        elif "unknown" not in there:  # an attestation
            others.add(there)
    listed = ", ".join(sorted(others))
    if not chosen:
        raise ImageError(f"{what}: holds no image for {mine}: only {listed or 'nothing that runs'}")
    if others:
        log(f"taken: {mine}; also there: {listed}")
    return chosen


def _link_known(store: Store, layers: Sequence[Descriptor], blobs: Path) -> list[Descriptor]:
    """Give skopeo the layers that the store has (it then does not fetch them); return the others, each once."""
    wanted = []
    for layer in {layer.digest: layer for layer in layers}.values():
        if store.has_whole_blob(layer):
            _blob_file(blobs, layer).hardlink_to(store.blob_path(layer.digest))
        else:
            wanted.append(layer)
    return wanted


def _tell(reference: Reference, layers: Sequence[Descriptor], wanted: Sequence[Descriptor], log: Log) -> None:
    size = format_bytes(sum(blob.size_bytes for blob in wanted))
    known = len({layer.digest for layer in layers}) - len(wanted)
    log(f"{reference}: layers to fetch: {len(wanted)} ({size}); here already: {known}")


def _fetch(image: Reference, scratch: Path, access: Access) -> None:
    with skopeo.options(access, image.registry, "src-") as chosen:
        argv = [*chosen, "--dest-oci-accept-uncompressed-layers", f"--dest-shared-blob-dir={scratch / 'blobs'}"]
        skopeo.copy([*argv, f"docker://{image}", "oci:copy:image"], f"pull: {image}", image, cwd=scratch)


def _blob_file(blobs: Path, blob: Descriptor) -> Path:
    return blobs / blob.digest.removeprefix("sha256:")


def _write_layout(directory: Path, manifest: Descriptor) -> None:
    (directory / "oci-layout").write_bytes(oci.canonical_json({"imageLayoutVersion": "1.0.0"}))
    (directory / "index.json").write_bytes(oci.canonical_json(oci.index_document([manifest])))


@contextlib.contextmanager
def _watched(directory: Path, total_bytes: int, progress: Progress) -> Iterator[None]:
    """Tell `progress`, five times a second, how much of what is wanted has come to the directory."""
    before_bytes, ended = _size_bytes(directory), threading.Event()

    def watch() -> None:
        while not ended.wait(_PROGRESS_PERIOD_S):
            progress(min(max(0, _size_bytes(directory) - before_bytes), total_bytes - 1), total_bytes)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    progress(total_bytes, total_bytes)


def _size_bytes(directory: Path) -> int:
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # skopeo renames what it has written
                total += os.lstat(f"{path}/{name}").st_size
    return total


# Out


def push_image(
    store: Store,
    name: str,
    text: str,
    *,
    compression: Compression = _PLAIN_TO_GZIP,
    access: Access = OPEN_ACCESS,
    log: Log = lambda _: None,
) -> str:
    """Send an image of the store to a registry; return its digest there.

    Layers that are plain tars are packed with gzip on the way (the usual `compression`), which gives the image another
    digest than it has here; packed ones go as they are. Layers that the registry has are not sent again.

    Raises: UsageError for a target without a tag; CapabilityError without skopeo; ImageError like `pull_image`.
    """
    reference = parse_reference(text)
    if reference.digest:
        raise UsageError(f"push: {text}: a digest cannot be chosen", hint="push to REGISTRY/NAME:TAG")
    room = disk_errors_told(f"push: {reference}", _ROOM)
    with room, wrap(store, name, compression) as parcel, store.scratch() as scratch:
        write_directory(parcel, scratch / "layout")
        log(f"{parcel.name} to {reference}: layers: {len(parcel.layers)} ({format_bytes(parcel.size_bytes)})")
        with skopeo.options(access, reference.registry, "dest-") as chosen:
            argv = [*chosen, "--preserve-digests", "--digestfile=digest", f"oci:layout:{parcel.name}"]
            skopeo.copy([*argv, f"docker://{reference}"], f"push: {reference}", reference, cwd=scratch)
        there = (scratch / "digest").read_text().strip()
        if there != parcel.manifest.digest:
            raise ImageError(f"push: {reference}: the registry has it as {there}, not as {parcel.manifest.digest}")
        return there


def login(registry: str, user: str, password: str, access: Access = OPEN_ACCESS) -> None:
    """Ask a registry whether it knows a user, and keep the password for pull and push.

    It is kept in ${XDG_RUNTIME_DIR}/containers/auth.json (readable by this user only), or in `access.authfile`.
    Raises: ImageError when it is refused; CapabilityError without skopeo.
    """
    authfile = [f"--authfile={access.authfile}"] if access.authfile is not None else []
    argv = ["skopeo", "login", "--password-stdin", f"--username={user}", *authfile, *skopeo.tls_options(access)]
    try:
        run([*argv, registry], input=password.encode(), timeout_ns=ASK_TIMEOUT_NS)
    except CommandError as error:
        raise skopeo.explain(error, f"login: {registry}", Reference(registry, "", "", "")) from error


def logout(registry: str, access: Access = OPEN_ACCESS) -> None:
    """Forget the password of a registry. Raises: ImageError where none is kept; CapabilityError without skopeo."""
    authfile = [f"--authfile={access.authfile}"] if access.authfile is not None else []
    try:
        run(["skopeo", "logout", *authfile, registry], timeout_ns=ASK_TIMEOUT_NS)
    except CommandError as error:
        raise skopeo.explain(error, f"logout: {registry}", Reference(registry, "", "", "")) from error

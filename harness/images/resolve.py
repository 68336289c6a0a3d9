"""From what a scenario says of its image to the one root tree that every arm starts from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import ImageError, UsageError
from harness.host.process import find_program
from harness.images import containerfile, oci
from harness.images.build import Log, build_image
from harness.images.interchange import import_image
from harness.images.oci import Image
from harness.images.pack import pack_tree
from harness.images.preview import Preview, Refusal, preview_build
from harness.images.references import Reference, parse_reference
from harness.images.registry import pull_image
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.model.spec import ImageConfig, RootTree

ImageKind = Literal["build", "oci", "layout", "rootfs", "name"]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image as a scenario names it.

    build: a directory with a Containerfile, or a Containerfile (its directory is the context). name: NAME[:TAG] in the
    store. oci: [REGISTRY/]NAME[:TAG] or NAME@DIGEST, pulled where the store has none of that name. layout: an OCI
    layout directory or archive, or a `docker save` tar. rootfs: a directory that is copied.
    """

    kind: ImageKind
    value: str

    def __str__(self) -> str:
        return self.value if self.kind == "name" else f"{self.kind}:{self.value}"


def resolve_image(ref: ImageRef, base_dir: Path, store: Store, *, log: Log = lambda _: None) -> RootTree:
    """Build, import, copy, find or pull an image and return its root tree, unpacked and checked.

    Relative paths count from `base_dir` (the scenario's directory). What is built, imported or copied gets a name in
    the store that its place on disk decides, so that the next run replaces it.

    Raises: ImageError for a missing or damaged image; BuildError for a Containerfile.
    """
    if ref.kind == "oci":
        image = _find_or_pull(ref, store, log)
        return open_tree(store, image, str(ref) if "@" in ref.value else f"{ref}@{image.manifest.digest}")
    if ref.kind == "name":
        return open_tree(store, _find(ref, store), str(ref))
    path = (base_dir / ref.value).resolve()
    if not path.exists():
        raise ImageError(f"image: {ref}: no such file or directory: {path}")
    name = f"{ref.kind}/{_slug(path.name)}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if ref.kind == "build":
        file = containerfile.find(path)
        image = build_image(file, file.parent, store, name=name, log=log)
    elif ref.kind == "layout":
        (image,) = import_image(path, store, name=name, log=log).values()
    else:
        image = copy_directory(path, store, name)
    return open_tree(store, image, str(ref))


@dataclass(frozen=True, slots=True)
class ImageOutlook:
    """What is known of an image before it is made: what was `found`, and what a build of it would refuse.

    `config` is None where only an import tells it; `user_at` is PATH:LINE of the USER that decides, or empty.
    """

    found: str
    config: ImageConfig | None
    refused: tuple[Refusal, ...] = ()
    user_at: str = ""


def image_outlook(ref: ImageRef, base_dir: Path, store: Store) -> ImageOutlook:
    """Return what a run would find; nothing is built, imported, copied or pulled.

    Raises: ImageError, BuildError; CapabilityError where an image is to be pulled and there is no skopeo.
    """
    if ref.kind == "oci" and _reference(ref).local_name not in store.names():
        find_program("skopeo")
        return ImageOutlook(f"{_reference(ref)}, not in the store: to be pulled", None)
    if ref.kind in {"oci", "name"}:
        image = _find(ref, store)
        return ImageOutlook(_in_store(ref.value, image), image.config)
    path = (base_dir / ref.value).resolve()
    if not path.exists():
        hint = "paths count from the scenario's directory"
        raise ImageError(f"{ref.kind}: {path}: no such file or directory", hint=hint)
    if ref.kind == "build":
        file = containerfile.find(path)
        preview = preview_build(file, store)
        base = f", from {_in_store(preview.base, store.find(preview.base))}" if _is_stored(preview) else ""
        return ImageOutlook(f"{file}{base}", preview.config, tuple(preview.refused), preview.user_at)
    return ImageOutlook(str(path), ImageConfig() if ref.kind == "rootfs" else None)


def _is_stored(preview: Preview) -> bool:
    return not preview.refused and preview.base != "scratch"


def _in_store(name: str, image: Image) -> str:
    return f"{name} in the store ({image.manifest.digest[:19]})"


def _find(ref: ImageRef, store: Store) -> Image:
    try:
        return store.find(_reference(ref).local_name if ref.kind == "oci" else ref.value)
    except UsageError as error:
        raise ImageError(error.message, hint=error.hint) from error


def _find_or_pull(ref: ImageRef, store: Store, log: Log) -> Image:
    """Return the store's image of that name; only where there is none is the registry asked."""
    if _reference(ref).local_name in store.names():
        return _find(ref, store)
    return pull_image(ref.value, store, log=log)[1]


def _reference(ref: ImageRef) -> Reference:
    try:
        return parse_reference(ref.value)
    except UsageError as error:
        raise ImageError(error.message, hint=error.hint) from error


def copy_directory(path: Path, store: Store, name: str) -> Image:
    """Store a root file system's directory as an image of one layer: owners, modes, links and devices kept.

    Raises: ImageError when it is no directory, or something in it cannot be read.
    """
    if not path.is_dir():
        raise ImageError(f"image: {path}: a root file system must be a directory")
    with store.adding():
        layer = pack_tree(store, path)
        document: oci.Document = {
            "architecture": oci.host_architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created_by": "harness: copy of a directory"}],
        }
        return store.add_image(document, [layer], name)


def _slug(text: str) -> str:
    """Return a text as a part of an image's name."""
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in text.lower())
    return "-".join(part for part in kept.split("-") if part) or "root"

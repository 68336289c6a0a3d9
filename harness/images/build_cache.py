"""The build cache: what a step made, by a key of everything that decides it. `cache/KEY.json` in the image store.

A key is the digest of the layers so far, the action with its environment, and the content of what it copies: never of
times. A record names a layer (or says that nothing changed) and pins its blob; it is believed only as long as the blob
still is what it was. Records are written whole, so builds may run beside each other, and be killed, at any moment.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import ImageError
from harness.images import oci
from harness.images.build_steps import Action
from harness.images.oci import Descriptor, Document, Layer
from harness.images.store import Store

_SCHEMA = "harness.build-cache/1"


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made, and when: None for a step that changed nothing."""

    layer: Layer | None
    created: str


def chain_id(layers: Sequence[Layer]) -> str:
    """Return the name of a stack of layers, `scratch` for none."""
    return oci.chain_ids(layers)[-1] if layers else "scratch"


def step_key(chain: str, action: Action, inputs: Mapping[str, str], epoch_s: int | None) -> str:
    """Return the key of one step over a stack of layers; `inputs` tell its other trees, by chain id or by content.

    Whom a step copies from is among `inputs`: that it is stage 1, or is called `build`, decides nothing.
    """
    return _key({
        "chain": chain, "kind": type(action).__name__, "action": _document(action), "inputs": dict(inputs),
        "epoch": epoch_s, "platform": oci.host_architecture(),
    })  # fmt: skip


def image_key(document: Document, history: Sequence[Document], layers: Sequence[Layer], epoch_s: int | None) -> str:
    """Return the key of a whole image: of all but the times."""
    told = [{key: value for key, value in entry.items() if key != "created"} for entry in history]
    blobs = [layer.blob.digest for layer in layers]
    return _key({"document": document, "history": told, "layers": blobs, "epoch": epoch_s})


def _document(action: Action) -> Any:
    """Return an action as JSON, without what must not decide."""
    fields = dataclasses.asdict(action)
    for name in ("untold", "origin", "sources"):
        fields.pop(name, None)
    for mount in fields.get("mounts", ()):
        mount.pop("origin")
    return fields


def _key(document: Document) -> str:
    text = oci.canonical_json({"schema": _SCHEMA, **_texts(document)})
    return hashlib.sha256(text).hexdigest()


def _texts(value: Any) -> Any:
    """Return a value for JSON: bytes become their digest."""
    if isinstance(value, bytes):
        return oci.sha256_digest(value)
    if isinstance(value, Mapping):
        return {str(key).encode("utf-8", "backslashreplace").decode(): _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class BuildCache:
    """The records of one store. `enabled` False: nothing is found, but what is made is kept."""

    def __init__(self, store: Store, *, enabled: bool = True) -> None:
        self._store = store
        self._enabled = enabled

    def find(self, key: str) -> Made | None:
        """Return what a step with this key made, None where it is not known (any more)."""
        document = self._read(key)
        if document is None or "created" not in document:
            return None
        told = document.get("layer")
        if told is None:
            return Made(None, str(document["created"]))
        try:
            blob = oci.parse_descriptor(told, "build cache")
            layer = Layer(blob, oci.check_digest(document.get("diff_id"), "build cache"))
        except ImageError:
            return None
        return Made(layer, str(document["created"])) if self._is_sound(blob, document.get("seen")) else None

    def keep(self, key: str, made: Made) -> None:
        """Remember what a step made."""
        document: Document = {"created": made.created, "layer": None, "pins": []}
        if made.layer is not None:
            blob = made.layer.blob
            document |= {"layer": blob.document(), "diff_id": made.layer.diff_id, "pins": [blob.digest]}
            document["seen"] = _identity(self._store, blob)
        self._write(key, document)

    def find_image(self, key: str) -> Descriptor | None:
        """Return the manifest of an image with this key."""
        document = self._read(key)
        try:
            manifest = oci.parse_descriptor((document or {}).get("manifest"), "build cache")
        except ImageError:
            return None
        return manifest if self._store.has_blob(manifest) else None

    def keep_image(self, key: str, image: oci.Image) -> None:
        """Remember an image, its configuration and its layers."""
        blobs = (image.manifest, image.config_blob, *(layer.blob for layer in image.layers))
        self._write(key, {"manifest": image.manifest.document(), "pins": [blob.digest for blob in blobs]})

    def _read(self, key: str) -> Document | None:
        if not self._enabled:
            return None
        try:
            document = oci.parse_json((self._store.path / "cache" / f"{key}.json").read_bytes(), "build cache")
        except (OSError, ImageError):
            return None
        return document if document.get("schema") == _SCHEMA else None

    def _write(self, key: str, document: Document) -> None:
        directory = self._store.path / "cache"
        directory.mkdir(exist_ok=True)
        data = oci.canonical_json({"schema": _SCHEMA, **document})
        self._store.write_atomically(directory / f"{key}.json", data)

    def _is_sound(self, blob: Descriptor, seen: object) -> bool:
        """Return whether a blob still is what it was: told by its inode, or, where that is another, by its bytes."""
        if not self._store.has_blob(blob):
            return False
        if seen == _identity(self._store, blob):
            return True
        with self._store.blob_path(blob.digest).open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == blob.digest


def _identity(store: Store, blob: Descriptor) -> list[int]:
    """Return what changes whenever a file's bytes do: nobody can set the time of an inode's last change."""
    status = store.blob_path(blob.digest).stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]

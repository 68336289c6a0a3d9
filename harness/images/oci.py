"""The documents of the OCI image format: names, descriptors, manifests and configurations, checked when they are read.

Source: opencontainers/image-spec v1.1 (descriptor.md, manifest.md, config.md, image-layout.md, layer.md).
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import ImageError, UsageError
from harness.model.spec import ImageConfig

Document = dict[str, Any]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
REF_NAME = "org.opencontainers.image.ref.name"

MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
INDEXES = (INDEX, DOCKER_LIST)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
# The grammar of distribution/reference; a registry's host is told from a first part by its dot, port or `localhost`.
_NAME = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """Return this machine's architecture as the image format names it: `amd64`, `arm64`."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """Return the one byte form of a document: sorted keys, no blanks, so that equal content has an equal digest."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_digest(data: bytes) -> str:
    """Return `sha256:HEX` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def check_digest(text: object, what: str) -> str:
    """Return a digest that is safe to use as a file name. Raises: ImageError for anything but sha256:HEX."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ImageError(f"{what}: {text!r}: not a sha256 digest")
    return text


def full_name(name: str) -> str:
    """Return NAME:TAG; the tag is `latest` where none is given, and what Docker Hub is called in full is left out.

    Raises: UsageError for what is no image name.
    """
    name = name.removeprefix("docker.io/").removeprefix("library/") if name.startswith("docker.io/") else name
    if not _NAME.fullmatch(name):
        raise UsageError(f"image name: {name}: not of the form NAME[:TAG]", hint="for instance: busybox, lab/web:1.2")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob: what it is, its digest and its size in bytes."""

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> Document:
        document: Document = {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}
        return {**document, "annotations": dict(self.annotations)} if self.annotations else document


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the stored blob and `diff_id`, the digest of its tar once decompressed."""

    blob: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image, read and checked. `document` is its whole configuration, `config` the part that says how to run it."""

    manifest: Descriptor
    config_blob: Descriptor
    layers: tuple[Layer, ...]
    document: Document
    config: ImageConfig

    @property
    def chain_id(self) -> str:
        """Digest of the stack of layers: images with equal layers unpack to one tree (config.md, "Layer ChainID")."""
        return chain_ids(self.layers)[-1]


def chain_ids(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the digest of the stack up to each layer, lowest first; without layers, one for the empty stack."""
    chain: list[str] = []
    for layer in layers:
        chain.append(sha256_digest(f"{chain[-1]} {layer.diff_id}".encode()) if chain else layer.diff_id)
    return tuple(chain) or (sha256_digest(b""),)


def parse_json(data: bytes, what: str) -> Document:
    """Return a JSON object. Raises: ImageError when it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what}: damaged: no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ImageError(f"{what}: damaged: expected a JSON object")
    return document


def parse_descriptor(document: object, what: str) -> Descriptor:
    """Return a checked descriptor. Raises: ImageError."""
    if not isinstance(document, dict):
        raise ImageError(f"{what}: damaged: expected a descriptor, got {document!r}")
    size, annotations = document.get("size"), document.get("annotations") or {}
    if not isinstance(size, int) or size < 0 or not isinstance(annotations, dict):
        raise ImageError(f"{what}: damaged: descriptor without a valid size")
    texts = {str(key): str(value) for key, value in annotations.items()}
    return Descriptor(str(document.get("mediaType", "")), check_digest(document.get("digest"), what), size, texts)


def parse_manifest(document: Document, what: str) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """Return the descriptors of the configuration and of the layers, lowest first. Raises: ImageError."""
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ImageError(f"{what}: damaged: manifest without a list of layers")
    config = parse_descriptor(document.get("config"), f"{what}: config")
    return config, tuple(parse_descriptor(layer, f"{what}: layer {n}") for n, layer in enumerate(layers))


def parse_diff_ids(document: Document, what: str) -> tuple[str, ...]:
    """Return the digests of the uncompressed layers, lowest first. Raises: ImageError."""
    rootfs = document.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list):
        raise ImageError(f"{what}: damaged: configuration without rootfs.diff_ids")
    return tuple(check_digest(text, f"{what}: rootfs.diff_ids") for text in ids)


def parse_config(document: Document, what: str) -> ImageConfig:
    """Return how to run an image, from its configuration document. Raises: ImageError."""
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise ImageError(f"{what}: damaged: config is no object")
    labels = config.get("Labels") or {}
    ports = config.get("ExposedPorts") or {}
    if not isinstance(labels, dict) or not isinstance(ports, dict):
        raise ImageError(f"{what}: damaged: Labels or ExposedPorts is no object")
    pairs = [text.partition("=") for text in _texts(config, "Env", what)]
    return ImageConfig(
        env={key: value for key, _, value in pairs},
        entrypoint=_texts(config, "Entrypoint", what),
        cmd=_texts(config, "Cmd", what),
        workdir=str(config.get("WorkingDir") or "/"),
        user=str(config.get("User") or ""),
        labels={str(key): str(value) for key, value in labels.items()},
        exposed_ports=tuple(sorted(str(port) for port in ports)),
    )


def _texts(config: Document, key: str, what: str) -> tuple[str, ...]:
    values = config.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ImageError(f"{what}: damaged: {key} is no list of texts")
    return tuple(values)


def manifest_document(config: Descriptor, layers: Sequence[Descriptor]) -> Document:
    """Return the manifest of an image."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }


def index_document(manifests: Sequence[Descriptor]) -> Document:
    """Return the index.json of a layout."""
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry.document() for entry in manifests]}

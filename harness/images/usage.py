"""What images take on disk, and what they share: by the stored layers, and by the layers once unpacked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.images import oci
from harness.images.oci import Image
from harness.images.store import Store


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes of an image's layers: those that another image has too, and those that go when this one is removed."""

    shared: int
    unique: int

    @property
    def total(self) -> int:
        return self.shared + self.unique


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image under all its names. `unpacked` is None where not all its layers are unpacked one by one."""

    names: tuple[str, ...]
    digest: str
    layers: int
    stored: Bytes
    unpacked: Bytes | None


@dataclass(frozen=True, slots=True)
class Total:
    """Bytes of some images' layers, each layer once, and the same if every image had its own copy."""

    with_sharing: int
    without_sharing: int


@dataclass(frozen=True, slots=True)
class Usage:
    """`cache_bytes`: layers that only the build cache keeps; `trees_bytes`: merged root trees; `disks_bytes` of VMs."""

    images: tuple[ImageUsage, ...]
    stored: Total
    unpacked: Total
    cache_bytes: int
    trees_bytes: int
    disks_bytes: int


def measure_usage(store: Store) -> Usage:
    """Return what the store's images take and share. Reads sizes and records only. Raises: ImageError."""
    with store.adding():  # nothing is removed meanwhile
        names: dict[str, list[str]] = {}
        found: dict[str, Image] = {}
        for name, manifest in store.names().items():
            names.setdefault(manifest.digest, []).append(name)
            found.setdefault(manifest.digest, store.read_image(manifest))
        images = list(found.values())
        stored, stored_total = _shares(images, _stored_sizes)
        unpacked, unpacked_total = _shares(images, lambda image: _unpacked_sizes(store, image))
        rows = [
            ImageUsage(tuple(names[digest]), digest, len(image.layers), first, second)
            for (digest, image), first, second in zip(found.items(), stored, unpacked, strict=True)
            if first is not None
        ]
        return Usage(
            tuple(rows), stored_total, unpacked_total,
            _cache_bytes(store, images),
            sum(size for path in (store.path / "trees").glob("*.json") if (size := _record_bytes(path)) is not None),
            sum(path.stat().st_size for path in (store.path / "disks").rglob("*") if path.is_file()),
        )  # fmt: skip


def _stored_sizes(image: Image) -> dict[str, int]:
    return {layer.blob.digest: layer.blob.size_bytes for layer in image.layers}


def _unpacked_sizes(store: Store, image: Image) -> dict[str, int] | None:
    sizes = dict[str, int]()
    for chain_id in oci.chain_ids(image.layers):
        size = _record_bytes(store.path / "layers" / f"{chain_id.removeprefix('sha256:')}.json")
        if size is None:
            return None
        sizes[chain_id] = size
    return sizes


def _record_bytes(path: Path) -> int | None:
    try:
        return int(oci.parse_json(path.read_bytes(), str(path)).get("size_bytes", 0))
    except FileNotFoundError:
        return None


def _shares(
    images: Sequence[Image], sizes_of: Callable[[Image], dict[str, int] | None]
) -> tuple[list[Bytes | None], Total]:
    """Return each image's bytes, and the total over the images whose sizes are known."""
    every = [sizes_of(image) for image in images]
    known = [sizes for sizes in every if sizes is not None]
    users = Counter(key for sizes in known for key in sizes)
    once = {key: size for sizes in known for key, size in sizes.items()}
    rows = [None if sizes is None else _split(sizes, users) for sizes in every]
    return rows, Total(sum(once.values()), sum(sum(sizes.values()) for sizes in known))


def _split(sizes: dict[str, int], users: Counter[str]) -> Bytes:
    shared = sum(size for key, size in sizes.items() if users[key] > 1)
    return Bytes(shared, sum(sizes.values()) - shared)


def _cache_bytes(store: Store, images: Sequence[Image]) -> int:
    used = {blob.digest for image in images for blob in (image.manifest, image.config_blob)}
    used |= {layer.blob.digest for image in images for layer in image.layers}
    pins = set[str]()
    for path in (store.path / "cache").glob("*.json"):
        pins.update(str(pin) for pin in oci.parse_json(path.read_bytes(), str(path)).get("pins") or ())
    paths = [store.blob_path(pin) for pin in pins - used]
    return sum(path.stat().st_size for path in paths if path.exists())

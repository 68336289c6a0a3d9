"""Removing what no name leads to: blobs, trees, layers and disks, dead work in progress, on request the build cache.

Safe beside all else: it waits for those who add something (`Store.adding`), what a live process has opened stays (its
record is locked, `Store.pin`), and a record goes before the directory that it speaks of, so that a collection which is
killed leaves nothing that counts. A record of the build cache (`cache/*.json`) keeps the blobs in its list `pins`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError
from harness.images import oci
from harness.images.store import Store

_UNPACKED = ("trees", "layers")
_DISKS = (".erofs", ".ext4", ".chain", ".vmdk")  # of a tree by its root digest, of a layer by its chain id


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that went: its path in the store and the space it took, in bytes."""

    path: str
    size_bytes: int


def collect(store: Store, *, cache: bool = False) -> list[Removed]:
    """Remove what no name leads to (with `cache`, the build cache as well) and return what went.

    Waits until no other process adds anything. Raises: ImageError when an image cannot be read: it may need anything.
    """
    with store.lock("store"), store.lock("index"):
        gone = list(_discard_all(store, (store.path / "cache").iterdir())) if cache else []
        blobs, chains = _referenced(store)
        dead = [path for path in (store.path / "blobs" / "sha256").iterdir() if path.name not in blobs]
        dead += list((store.path / "tmp").iterdir())
        for kind in _UNPACKED:
            dead += [path for path in (store.path / kind).glob("*.json") if path.stem not in chains]
        gone += _discard_all(store, dead)
        return gone + list(_discard_all(store, _unrecorded(store)))


def _referenced(store: Store) -> tuple[set[str], set[str]]:
    """Return the file names of the blobs, and of the unpacked trees and layers, that names and build cache need."""
    blobs, chains = set[str](), set[str]()
    for entry in store.entries():
        image = store.read_image(entry)
        chains.update(map(_file_name, oci.chain_ids(image.layers)))
        blobs.update(_file_name(b.digest) for b in (image.manifest, image.config_blob))
        blobs.update(_file_name(layer.blob.digest) for layer in image.layers)
    for path in (store.path / "cache").glob("*.json"):
        pins = oci.parse_json(path.read_bytes(), str(path)).get("pins")
        if not isinstance(pins, list):
            raise ImageError(f"build cache: {path}: damaged: no list of pins", hint="harness image gc --all")
        blobs.update(_file_name(oci.check_digest(pin, str(path))) for pin in pins)
    return blobs, chains


def _unrecorded(store: Store) -> list[Path]:
    """Return unpacked directories without a record, and disks of no recorded tree or layer."""
    dead = []
    for kind in _UNPACKED:
        dead += [path for path in (store.path / kind).iterdir() if not path.with_suffix(".json").exists()]
    records = (store.path / "trees").glob("*.json")
    roots = {_file_name(str(oci.parse_json(r.read_bytes(), str(r)).get("root_digest"))) for r in records}
    roots |= {path.stem for path in (store.path / "layers").glob("*.json")}
    kept = roots | {record.stem for record in (store.path / "layers").glob("*.json")}
    return dead + [p for p in (store.path / "disks").iterdir() if p.suffix in _DISKS and p.stem not in kept]


def _file_name(digest: str) -> str:
    return digest.partition(":")[2]


def _discard_all(store: Store, paths: Iterable[Path]) -> Iterable[Removed]:
    for path in paths:
        size_bytes = _stored_bytes(path)
        if _discard(path):
            yield Removed(str(path.relative_to(store.path)), size_bytes)


def _stored_bytes(path: Path) -> int:
    """Return what a file, or an unpacked directory by its record, takes."""
    try:
        if path.parent.name in _UNPACKED and path.suffix == ".json":
            return int(oci.parse_json(path.read_bytes(), str(path)).get("size_bytes", 0))
        return 0 if path.is_dir() else path.stat().st_size
    except ImageError:
        return 0


def _discard(path: Path) -> bool:
    """Remove a file, a directory, or an unpacked directory by its record; return whether it went."""
    if path.parent.name in _UNPACKED and path.suffix == ".json":
        return _discard_unpacked(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return True


def _discard_unpacked(record: Path) -> bool:
    """Remove a record and its directory, unless a live process has pinned it."""
    descriptor = os.open(record, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        record.unlink()
        record.with_suffix(".stat").unlink(missing_ok=True)
        # What cannot be removed now has no record any more: the next collection takes it.
        shutil.rmtree(record.with_suffix(""), ignore_errors=True)
        return True
    finally:
        os.close(descriptor)

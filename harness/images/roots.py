"""Root trees: an image unpacked once into the store, checked each time it is opened, and kept while it is in use."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.images import oci
from harness.images.fingerprint import check_unpacked, note_unpacked
from harness.images.layers import Budget, LayerReader
from harness.images.oci import Image
from harness.images.store import Store
from harness.images.tree import root_digest, tree_size_bytes
from harness.images.unpack import Unpacker
from harness.model.spec import RootTree


@dataclass(frozen=True, slots=True)
class _Record:
    """What trees/HEX.json says of the tree beside it."""

    root_digest: str
    size_bytes: int


def unpack_image(store: Store, image: Image, root: Path, *, budget: Budget | None = None, owners: bool = True) -> None:
    """Unpack all layers of an image into an empty directory, digests verified. Raises: ImageError."""
    budget = budget or Budget()
    root.chmod(0o755)
    unpacker = Unpacker(root, budget, owners=owners)
    for number, layer in enumerate(image.layers):
        with store.open_blob(layer.blob) as packed:
            reader = LayerReader(packed, f"layer {number} ({layer.blob.digest[7:19]})", budget)
            unpacker.apply(reader)
            reader.verify(layer.blob.digest, layer.diff_id)
    unpacker.finish()


def open_tree(store: Store, image: Image, reference: str = "", *, budget: Budget | None = None) -> RootTree:
    """Return the image's root tree, unpacked if it is not yet.

    The tree stays in the store as long as this Store object lives, whatever is removed meanwhile. A tree that somebody
    changed is refused: each time its fingerprint is compared, and where that differs, its root digest
    (harness.images.fingerprint says what this proves).

    Raises: ImageError for a hostile or damaged image, and for a tree that is not what was unpacked.
    """
    key = image.chain_id.removeprefix("sha256:")
    tree = store.path / "trees" / key
    record_path = tree.with_suffix(".json")
    with store.adding(), store.lock(f"tree-{key}"):
        if not record_path.exists():
            _make_tree(store, image, tree, budget)
        document = oci.parse_json(store.pin(record_path), str(record_path))
    record = _Record(str(document.get("root_digest")), int(document.get("size_bytes", -1)))
    check_unpacked(store, tree, record.root_digest, root_digest)
    return RootTree(tree, record.root_digest, record.size_bytes, image.config, reference)


def _make_tree(store: Store, image: Image, tree: Path, budget: Budget | None) -> None:
    """Unpack into tmp/, then rename: first the tree, then its record, without which the tree does not count."""
    with store.scratch() as scratch:
        fresh = scratch / "tree"
        fresh.mkdir()
        unpack_image(store, image, fresh, budget=budget)
        record = _Record(root_digest(fresh), tree_size_bytes(fresh))
        os.sync()
        if tree.exists():  # left by a process that died before it wrote the record
            tree.rename(scratch / "dead")
        fresh.rename(tree)
    note_unpacked(store, tree)
    store.write_atomically(tree.with_suffix(".json"), oci.canonical_json(asdict(record)))

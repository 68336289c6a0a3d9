"""Layers unpacked one by one, in OverlayFS's own form: what a storage driver puts together to a container's root.

    layers/HEX  layers/HEX.json     one layer each, by the chain id of the stack that it tops

Made once, beside each other: a thousand images on one base share its directories. A layer is unpacked with those below
at hand (`harness.images.target`), so that the stack shows what the merged tree would hold.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.errors import ImageError
from harness.images import oci
from harness.images.fingerprint import check_unpacked, layer_digest, note_unpacked
from harness.images.layers import Budget, LayerReader
from harness.images.lowers import Lowers
from harness.images.oci import Image, Layer
from harness.images.store import Store
from harness.images.tree import tree_size_bytes
from harness.images.unpack import Unpacker
from harness.images.whiteouts import Form


@dataclass(frozen=True, slots=True)
class Stack:
    """Directories of unpacked layers, lowest first; never empty. `chain_ids` are their names in the store."""

    directories: tuple[Path, ...]
    chain_ids: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Record:
    """What layers/HEX.json says of the directory beside it; `entries` and both sizes count against the budget."""

    digest: str
    entries: int
    charged_bytes: int
    size_bytes: int


def open_stack(store: Store, image: Image, *, budget: Budget | None = None) -> Stack:
    """Return the layers of an image as directories, unpacked where they are not yet.

    They stay in the store as long as this Store object lives, whatever is removed meanwhile, and must not be changed.
    An image without layers has one empty directory.

    Raises: ImageError for a hostile or damaged image, and for a directory that is not what was unpacked.
    """
    return open_chain(store, image.layers, budget=budget)


def open_chain(store: Store, layers: Sequence[Layer], *, budget: Budget | None = None) -> Stack:
    """Return stored layers, lowest first, as directories: `open_stack` for what is no image yet."""
    left, chain = budget or Budget(), oci.chain_ids(layers)
    directories: list[Path] = []
    size_bytes = 0
    for layer, chain_id in zip(layers or (None,), chain, strict=True):
        directory = store.path / "layers" / chain_id.removeprefix("sha256:")
        record = _open_layer(store, layer, directory, directories, left)
        entries, unpacked = left.entries - record.entries, left.unpacked_bytes - record.charged_bytes
        if entries < 0 or unpacked < 0:
            raise ImageError(f"image: {chain_id}: its layers together are larger than the limit: refused")
        left = replace(left, entries=entries, unpacked_bytes=unpacked)
        size_bytes += record.size_bytes
        directories.append(directory)
    return Stack(tuple(directories), chain, size_bytes)


def unpack_layer(
    store: Store, layer: Layer, directory: Path, lowers: Sequence[Path], *,
    form: Form = Form.OVERLAY, budget: Budget | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Unpack one stored layer into `directory`, its digests verified; return its entries and bytes, as charged.

    In the form APPLIED `directory` holds the tree below (a snapshot or copy of it) and `lowers` is empty; in the others
    it is empty and `lowers` are the directories of the layers below, lowest first, in the same form.

    Raises: ImageError; then the directory is worth nothing.
    """
    budget = budget or Budget()
    what = f"layer {layer.blob.digest[7:19]}"
    unpacker = Unpacker(directory, budget, form=form, lowers=Lowers(lowers, form))
    with store.open_blob(layer.blob) as packed:
        reader = LayerReader(packed, what, budget)
        unpacker.apply(reader)
        reader.verify(layer.blob.digest, layer.diff_id)
    unpacker.finish()
    return budget.entries - unpacker.left_entries, budget.unpacked_bytes - unpacker.left_bytes


def _open_layer(store: Store, layer: Layer | None, directory: Path, lowers: Sequence[Path], budget: Budget) -> _Record:
    path = directory.with_suffix(".json")
    with store.adding(), store.lock(f"layer-{directory.name}"):
        if not path.exists():
            _make_layer(store, layer, directory, lowers, budget)
        document = oci.parse_json(store.pin(path), str(path))
    try:
        record = _Record(**document)
    except TypeError as error:
        raise ImageError(f"layer: {path}: damaged: {error}", hint=f"remove {path} and {directory}") from error
    check_unpacked(store, directory, record.digest, layer_digest)
    return record


def _make_layer(store: Store, layer: Layer | None, directory: Path, lowers: Sequence[Path], budget: Budget) -> None:
    """Unpack into tmp/, then rename: first the layer, then its record, without which the layer does not count."""
    with store.scratch() as scratch:
        fresh, charged = scratch / "layer", (0, 0)
        fresh.mkdir()
        fresh.chmod(0o755)
        if layer is not None:
            charged = unpack_layer(store, layer, fresh, lowers, budget=budget)
        record = _Record(layer_digest(fresh), *charged, tree_size_bytes(fresh))
        os.sync()
        if directory.exists():  # left by a process that died before it wrote the record
            directory.rename(scratch / "dead")
        fresh.rename(directory)
    note_unpacked(store, directory)
    store.write_atomically(directory.with_suffix(".json"), oci.canonical_json(asdict(record)))

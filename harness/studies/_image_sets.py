"""Sets of images for the study `layers`: the same files on one base, kept in different forms on a disk."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host.process import run
from harness.images import oci
from harness.images.disk import disk_image
from harness.images.oci import Image, Layer
from harness.images.pack import LayerWriter
from harness.images.stack import open_stack
from harness.images.store import BlobWriter, Store
from harness.images.tree import root_digest, tree_size_bytes, walk
from harness.model.spec import RootTree

FILE_BYTES = 256 << 10
CLUSTER_BYTES = 64 << 10  # qcow2's own where nothing else is said
_TIMEOUT_NS = 300 * 10**9


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a set: one base tree, and for each image the few that it adds."""

    base: Path
    own: tuple[Path, ...]


def make_sources(place: Path, base_bytes: int, own_bytes: int, count: int) -> Sources:
    """Write the trees: files of 256 KiB that no two have alike and no packer makes smaller; the same in every run."""
    source = random.Random(7)
    base = _fill(place / "base", "usr/lib/base", base_bytes, source)
    own = tuple(_fill(place / f"own-{number}", f"opt/app-{number}", own_bytes, source) for number in range(count))
    return Sources(base, own)


def _fill(tree: Path, below: str, size_bytes: int, source: random.Random) -> Path:
    directory = tree / below
    directory.mkdir(parents=True)
    for number, start in enumerate(range(0, size_bytes, FILE_BYTES)):
        (directory / f"{number:04d}").write_bytes(source.randbytes(min(FILE_BYTES, size_bytes - start)))
    return tree


def pack(store: Store, trees: Sequence[Path]) -> Layer:
    """Store trees that have no file in common, one over the other, as one layer."""

    def write(out: BlobWriter) -> None:
        directories: set[bytes] = set()
        with LayerWriter(out) as writer:
            for tree in trees:
                for entry in walk(tree):
                    if not (tree / os.fsdecode(entry.path)).is_dir():
                        writer.copy(os.fsencode(tree), entry, None)
                    elif entry.path not in directories:
                        directories.add(entry.path)
                        writer.copy(os.fsencode(tree), entry, None)

    blob = store.add_blob(oci.LAYER, write)
    return Layer(blob, blob.digest)


def add_image(store: Store, sources: Sources, number: int, *, shared: bool) -> Image:
    """Store and unpack one image of the set: its own layer on the base's, or all of it in one layer."""
    own = sources.own[number]
    layers = [pack(store, [sources.base]), pack(store, [own])] if shared else [pack(store, [sources.base, own])]
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    document: oci.Document = {
        "architecture": oci.host_architecture(), "os": "linux", "config": {}, "rootfs": rootfs
    }  # fmt: skip
    image = store.add_image(document, layers, f"app-{number}")
    open_stack(store, image)
    return image


def add_raw_disk(place: Path, sources: Sources, number: int) -> None:
    """Make the disk of one VM: all of the image in one read-only file system (erofs)."""
    tree = place / f"tree-{number}"
    shutil.copytree(sources.base, tree, symlinks=True)
    shutil.copytree(sources.own[number], tree, symlinks=True, dirs_exist_ok=True)
    disk_image(RootTree(tree, root_digest(tree), tree_size_bytes(tree)), place)
    shutil.rmtree(tree)


def add_layered_disk(place: Path, sources: Sources, number: int) -> None:
    """Make the disks of one VM: a read-only file system for each layer, the base's only once."""
    for tree in (sources.base, sources.own[number]):
        disk_image(RootTree(tree, root_digest(tree), tree_size_bytes(tree)), place)


def add_overlay_disk(place: Path, sources: Sources, number: int, base: Path) -> None:
    """Make the disk of one VM as a qcow2 on the base's: it holds the blocks that the image's own files changed."""
    changed = place / "changed.raw"
    run(["cp", "--sparse=always", str(base), str(changed)], timeout_ns=_TIMEOUT_NS)
    own = sources.own[number]
    paths = [os.fsdecode(entry.path) for entry in walk(own)]
    script = place / "commands"
    script.write_text("".join(f"mkdir /{p}\n" if (own / p).is_dir() else f"write {own / p} /{p}\n" for p in paths))
    run(["debugfs", "-w", "-f", str(script), str(changed)], timeout_ns=_TIMEOUT_NS)
    disk = str(place / f"app-{number}.qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", disk], timeout_ns=_TIMEOUT_NS)
    run(["qemu-io", "-f", "qcow2", *_writes(base, changed, place), disk], timeout_ns=_TIMEOUT_NS)
    for path in (script, changed, *place.glob("run-*")):
        path.unlink()


def _writes(base: Path, changed: Path, place: Path) -> list[str]:
    """Return the commands of qemu-io that write what differs, in whole clusters; their bytes go to files `run-N`."""
    runs: list[tuple[int, bytearray]] = []
    with base.open("rb") as before, changed.open("rb") as after:
        offset = 0
        while new := after.read(CLUSTER_BYTES):
            if new != before.read(CLUSTER_BYTES):
                if not runs or runs[-1][0] + len(runs[-1][1]) != offset:
                    runs.append((offset, bytearray()))
                runs[-1][1].extend(new)
            offset += len(new)
    words = []
    for number, (start, content) in enumerate(runs):
        path = place / f"run-{number}"
        path.write_bytes(content)
        words += ["-c", f"write -q -s {path} {start} {len(content)}"]
    return words


def make_base_disk(place: Path, base: Path, room_bytes: int) -> Path:
    """Make the base's disk, an ext4 with room for what is installed on it; the room takes no space before."""
    size_bytes = tree_size_bytes(base)
    path = place / "base.raw"
    blocks_kib = (size_bytes + room_bytes) * 5 // 4 // 1024 + 8192
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", str(base), str(path),
         str(blocks_kib)], timeout_ns=_TIMEOUT_NS)  # fmt: skip
    return path

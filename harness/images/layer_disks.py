"""An image as one virtual disk, put together from a file for each layer: a changed layer costs its own file alone.

    disks/CHAIN_ID.erofs     one layer in overlay's own form, whiteouts and times as they are; made once
    disks/CHAIN_ID.vmdk      the layers of an image up to that one, as a VMDK descriptor: a text that names the files

To the guest it is one disk, on which the agent makes a partition for each layer: it needs no driver and no bus of its
own for many disks. QEMU reads descriptors whose extents are flat files (VMware Virtual Disk Format 5.0).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CapabilityError
from harness.host.process import run
from harness.images.oci import Image
from harness.images.stack import Stack, open_stack
from harness.images.store import Store, commit_file
from harness.model.spec import RootTree

LAYERS_MAX = 200  # their mount points fill half of the one page of options that mount(2) takes
_UUID = "68617261-6573-7300-8000-000000000003"  # any fixed one
_TIMEOUT_NS = 600 * 10**9
_SECTOR_BYTES = 512
_DESCRIPTOR = """\
# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"

# Extent description
{extents}

# The Disk Data Base
#DDB

ddb.adapterType = "ide"
"""


@dataclass(frozen=True, slots=True)
class LayeredDisk:
    """`path` is the descriptor; `extents` are offset and length of each layer, lowest first, in bytes.

    `made` counts the layers that had to be written. `store` keeps the layers as long as it lives.
    """

    path: Path
    extents: tuple[tuple[int, int], ...]
    made: int
    store: Store

    @property
    def size_bytes(self) -> int:
        return sum(length for _, length in self.extents)


def layered_disk(tree: RootTree) -> LayeredDisk:
    """Return the disk of a tree of the store. Raises: CapabilityError, CommandError, ImageError."""
    store = Store(tree.path.parent.parent)
    stack = open_stack(store, image_of(store, tree))
    if len(stack.directories) > LAYERS_MAX:
        raise CapabilityError(
            f"storage: erofs-layers: {len(stack.directories)} layers: at most {LAYERS_MAX}", hint="storage: raw"
        )
    return _disk(store, stack, store.path / "disks")


def image_of(store: Store, tree: RootTree) -> Image:
    """Return the image that a tree was unpacked from. Raises: CapabilityError for a tree of no stored image."""
    for entry in store.entries():
        image = store.read_image(entry)
        if image.chain_id.removeprefix("sha256:") == tree.path.name:
            return image
    raise CapabilityError(
        f"storage: erofs-layers: {tree.path}: no image of the store is this tree", hint="storage: raw takes any tree"
    )


def _disk(store: Store, stack: Stack, directory: Path) -> LayeredDisk:
    files, made = [], 0
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for layer, chain_id in zip(stack.directories, stack.chain_ids, strict=True):
            path = directory / f"{chain_id.removeprefix('sha256:')}.erofs"
            if not path.exists():
                _make(layer, path)
                made += 1
            files.append(path)
    finally:
        os.close(lock)
    descriptor = files[-1].with_suffix(".vmdk")
    store.write_atomically(descriptor, descriptor_text(files).encode())
    return LayeredDisk(descriptor, _extents(files), made, store)


def _make(layer: Path, path: Path) -> None:
    partial = path.with_suffix(".erofs.partial")
    partial.unlink(missing_ok=True)  # of a process that died: we hold the lock
    try:
        run(
            ["mkfs.erofs", "--quiet", "--preserve-mtime", "-U", _UUID, str(partial), str(layer)], timeout_ns=_TIMEOUT_NS
        )
        with partial.open("r+b") as file:
            commit_file(file, partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _extents(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    extents, at = [], 0
    for file in files:
        extents.append((at, file.stat().st_size))
        at += extents[-1][1]
    return tuple(extents)


def descriptor_text(files: Sequence[Path]) -> str:
    """Return the descriptor of a disk that these files make up, one after the other.

    Raises: CapabilityError for a path that cannot stand in it.
    """
    lines = []
    for file in files:
        if '"' in str(file) or "\n" in str(file):
            raise CapabilityError(f"disk: {file}: a quote or line break in its path", hint="set HARNESS_HOME")
        sectors, rest = divmod(file.stat().st_size, _SECTOR_BYTES)
        assert rest == 0, f"{file}: no whole number of sectors"
        lines.append(f'RW {sectors} FLAT "{file}" 0')
    return _DESCRIPTOR.format(extents="\n".join(lines))

"""How the study `portability` moves one image to another place: what is packed, what arrives, what can be started."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import TrialError
from harness.host.process import run
from harness.images.interchange import export_image, import_image
from harness.images.repack import parse_compression
from harness.images.roots import open_tree
from harness.images.store import Store
from harness.model.spec import RootTree

ContainerForm = Literal["oci", "oci-gzip", "oci-zstd"]
DiskForm = Literal["raw", "qcow2", "qcow2-zstd"]
Form = Literal["oci", "oci-gzip", "oci-zstd", "raw", "qcow2", "qcow2-zstd"]

DISK_FORMS: tuple[Form, ...] = ("raw", "qcow2", "qcow2-zstd")
_TIMEOUT_NS = 300 * 10**9
_CONVERT: Mapping[str, tuple[str, ...]] = {
    "raw": ("-O", "raw"),
    "qcow2": ("-O", "qcow2"),
    "qcow2-zstd": ("-O", "qcow2", "-c", "-o", "compression_type=zstd"),
}


@dataclass(frozen=True, slots=True)
class Artefacts:
    """What a VM consists of on this host: its disk, and the kernel and initramfs that start it."""

    disk: Path
    boot: tuple[Path, ...]


class Shipment:
    """One way to ship: `pack` into an empty directory, `unpack` from there into another; each is timed by the caller.

    `unpack` returns the root tree that can be started there. Raises: CapabilityError, TrialError.
    """

    def __init__(self, pack: Callable[[Path], None], unpack: Callable[[Path, Path], RootTree]) -> None:
        self.pack = pack
        self.unpack = unpack


def image_shipment(store: Store, name: str, form: Form) -> Shipment:
    """Return the image as an OCI archive, its layers packed as the form says; it arrives in an empty store."""
    compression = parse_compression({"oci": "none"}.get(form, form.removeprefix("oci-")))

    def unpack(box: Path, there: Path) -> RootTree:
        target = Store(there / "store")
        import_image(box / "image.tar", target, name="shipped")
        return open_tree(target, target.find("shipped"))

    return Shipment(
        lambda box: _discard(export_image(store, name, box / "image.tar", "oci-archive", compression)), unpack
    )


def disk_shipment(artefacts: Artefacts, tree: RootTree, form: Form) -> Shipment:
    """Return the VM's disk in a form of qemu-img, beside its kernel and initramfs. What arrives must be the same."""

    def pack(box: Path) -> None:
        _convert(artefacts.disk, "raw", box / "disk", _CONVERT[form])
        for path in artefacts.boot:
            shutil.copyfile(path, box / path.name)

    def unpack(box: Path, there: Path) -> RootTree:
        arrived = there / "disk.raw"
        _convert(box / "disk", form.partition("-")[0], arrived, _CONVERT["raw"])
        for path in artefacts.boot:
            shutil.copyfile(box / path.name, there / path.name)
        return tree

    return Shipment(pack, unpack)


def refuse_changed(artefacts: Artefacts, there: Path) -> None:
    """Raise TrialError unless the disk that arrived is the one that was sent, but for zeros at its end."""
    sent, arrived = (_sha256(path) for path in (artefacts.disk, there / "disk.raw"))
    if sent != arrived:
        raise TrialError(f"disk: what arrived is not what was sent: {arrived[:12]}, not {sent[:12]}")


def _sha256(path: Path) -> str:
    """Return the digest of a file's bytes without the zeros at its end: qcow2 rounds a disk up to whole sectors."""
    return hashlib.sha256(path.read_bytes().rstrip(b"\0")).hexdigest()


def _convert(source: Path, kind: str, target: Path, how: tuple[str, ...]) -> None:
    run(["qemu-img", "convert", "-f", kind, *how, str(source), str(target)], timeout_ns=_TIMEOUT_NS)


def _discard(_result: object) -> None:
    pass

"""How an image becomes a guest's root: which disks it has, and what the agent makes of them.

raw, ext4      one read-only disk; the agent puts an overlay over it whose upper directory is in the guest's memory
qcow2          a chain of images: an ext4 disk at its bottom, a new image for each trial on top; no overlay
erofs-layers   one disk for each layer of the image, seen by the guest as one; the overlay has them all below it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.backends._domain import Disk, GuestSpec
from harness.backends._hardware import DISK_MODULES, DiskBus
from harness.backends._vm_options import Options, root_fs
from harness.errors import CapabilityError
from harness.host.process import find_program
from harness.images import disk, disk_chain, initramfs, layer_disks, trial_volumes
from harness.images.store import Store
from harness.interfaces import ArmSpec, Capability, Json

_FIRST: dict[DiskBus, str] = {"virtio": "/dev/vda", "scsi": "/dev/sda", "sata": "/dev/sda"}
_SECOND: dict[DiskBus, str] = {"virtio": "/dev/vdb", "scsi": "/dev/vda", "sata": "/dev/vda"}  # it is virtio in any case
_ROOT_SERIAL, _TREE_SERIAL = "harness-root", "harness-tree"  # where another disk, of the system itself, is the first
_TOP = Disk(Path(), "qcow2", read_only=False)
_OVERLAY = "overlay, its upper directory in the guest's memory"


@dataclass(frozen=True, slots=True)
class Root:
    """The root of an arm's guests. `below`: what the image of each trial is put on, None where nothing is written;
    `top` is that image but for its path.

    `keep`, as long as it lives, keeps what the disks are made of. `archive` goes into the initramfs.
    """

    disks: tuple[Disk, ...]
    records: tuple[tuple[str, str], ...]
    facts: dict[str, Json] = field(default_factory=dict)
    below: Disk | None = None
    keep: Store | None = None
    top: Disk = _TOP
    archive: bytes = b""

    def take(self, guest: GuestSpec, trial_id: str) -> GuestSpec:
        """Return the guest with its disks, one of them new where the root is written to. Raises: BackendError."""
        if self.below is None:
            return replace(guest, disks=self.disks)
        place = trial_volumes.place_of(guest.token, trial_id)
        with trial_volumes.making(place):
            place.mkdir(parents=True, exist_ok=True)
            top = disk_chain.put_on(self.below.path, self.below.format, place / "ROOT.qcow2")
        return replace(guest, disks=(replace(self.top, path=top), *self.disks))


def modules(options: Options) -> tuple[str, ...]:
    """Return the modules that the guest needs for its root."""
    if options.icount:
        return ("loop", root_fs(options), "overlay")
    written = options.stored.driver == "qcow2"
    loaded = (*DISK_MODULES[options.disk_bus], root_fs(options), *(DISK_MODULES["virtio"] if written else ("overlay",)))
    return tuple(dict.fromkeys(loaded))


def prepare(spec: ArmSpec, options: Options, directory: Path) -> Root:
    """Return the root of a spec's image; disks are made in `directory`, unless they are there.

    Raises: CapabilityError, CommandError, ImageError.
    """
    if options.stored.driver == "qcow2":
        return _chain(spec, options, directory)
    if options.stored.driver == "erofs-layers":
        return _layers(spec, options)
    image = disk.disk_image(spec.tree, directory, fs=root_fs(options))
    facts: dict[str, Json] = {
        "disk_bytes": image.size_bytes,
        "writable_layer": _OVERLAY,
    }
    if options.icount:
        return _in_initramfs(spec, image, facts)
    return Root((_first(Disk(image.path), options),), _in_memory(spec, image.fs, options), facts)


def _in_initramfs(spec: ArmSpec, image: disk.Disk, facts: dict[str, Json]) -> Root:
    """No disk: how long the host takes to read one would decide how far a guest's clock jumps while it waits."""
    archive = initramfs.cpio([initramfs.file("root.img", image.path.read_bytes())])
    upper_bytes = str(spec.limits.memory_bytes // 2)
    records = (("root_device", "loop:/root.img"), ("root_fs", image.fs), ("upper_bytes", upper_bytes))
    return Root((), records, {**facts, "disk": "a file of the initramfs, by a loop device"}, archive=archive)


def _first(disk: Disk, options: Options) -> Disk:
    """Return a disk as the root's, with its bus or name. A system's own disk is on that bus, and first, instead."""
    if options.boot == "disk":
        return replace(disk, serial=_ROOT_SERIAL)
    return replace(disk, bus=options.disk_bus)


def _root_device(options: Options) -> str:
    return f"disk:{_ROOT_SERIAL}" if options.boot == "disk" else _FIRST[options.disk_bus]


def _in_memory(spec: ArmSpec, fs: str, options: Options) -> tuple[tuple[str, str], ...]:
    """Half of the guest's memory may be written to, as a tmpfs allows by default and as the container side does."""
    return (
        ("root_device", _root_device(options)),
        ("root_fs", fs),
        ("upper_bytes", str(spec.limits.memory_bytes // 2)),
    )


def _layers(spec: ArmSpec, options: Options) -> Root:
    image = layer_disks.layered_disk(spec.tree)
    facts: dict[str, Json] = {
        "disk_bytes": image.size_bytes, "layers": len(image.extents), "layers_made": image.made,
        "writable_layer": _OVERLAY,
    }  # fmt: skip
    layers = (("layer", f"{offset} {length}") for offset, length in image.extents)
    records = (*_in_memory(spec, "erofs", options), *layers)
    return Root((_first(Disk(image.path, "vmdk"), options),), records, facts, keep=image.store)


def _chain(spec: ArmSpec, options: Options, directory: Path) -> Root:
    """The tree is attested from the same chain without its top, as a second disk: what is written changes the first."""
    image = disk.disk_image(spec.tree, directory, fs="ext4", writable=True)
    below = disk_chain.chain(image.path, options.stored.depth)
    facts: dict[str, Json] = {
        "disk_bytes": image.size_bytes,
        "chain_depth": options.stored.depth,
        "writable_layer": "a qcow2 image for each trial, on top of the chain",
    }
    stock = options.boot == "disk"
    lowest = Disk(below.path, below.format, serial=_TREE_SERIAL if stock else "")
    tree = f"disk:{_TREE_SERIAL}" if stock else _SECOND[options.disk_bus]
    records = (("root_device", _root_device(options)), ("root_fs", "ext4"), ("tree_device", tree))
    return Root((lowest,), records, facts, lowest, top=_first(_TOP, options))


def needs(options: Options) -> Sequence[Capability]:
    """Return the programs that make the disks."""
    programs = ["mkfs.erofs" if root_fs(options) == "erofs" else "mke2fs"]
    programs += ["qemu-img"] if options.stored.driver == "qcow2" else []
    return tuple(_need_program(program) for program in programs)


def _need_program(name: str) -> Capability:
    try:
        return Capability("disk", available=True, reason=str(find_program(name)))
    except CapabilityError as error:
        return Capability("disk", available=False, reason=error.message, hint=error.hint)

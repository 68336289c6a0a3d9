"""Device mapper: a layer is a thin block device with ext4 on it, the next one a snapshot of it; a write copies a block.

One pool, made of two files through loop devices, which end with it. As in containerd's snapshotter, a layer's device is
taken down once it is written, so that a snapshot of it needs no suspending.
Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst of Linux.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.container import syscalls
from harness.errors import CapabilityError, CommandError
from harness.host.process import run
from harness.images.storage import detached, loop
from harness.images.storage.applying import apply_layer
from harness.images.storage.seam import Driver, Kind, Mounted
from harness.interfaces import Json

PREFIX = "harness-"
_DATA_BYTES, _META_BYTES, _DEVICE_BYTES = 16 << 30, 128 << 20, 10 << 30
"""Of the files, which have holes, and of each thin device: what is never written takes no room."""
_SECTOR_BYTES, _BLOCK_SECTORS, _LOW_WATER_BLOCKS = 512, 128, 1
_TOOL_NS = 120 * 10**9
_BUSY_NS, _PAUSE_S = 5 * 10**9, 0.01


class DeviceMapper:
    """See `Driver`. Names of devices begin with `harness-TOKEN-`."""

    def __init__(self, place: Path, token: str) -> None:
        if not (_is_loaded() or Path("/dev/mapper/control").exists()):  # a static node there loads the module
            raise CapabilityError("devicemapper: this kernel has no device mapper")
        self._place = place
        self._prefix = f"{PREFIX}{token}-"
        self._pool = f"{self._prefix}pool"
        self._ids: dict[str, int] = {}
        self._next = 0
        with ExitStack() as undo:
            undo.callback(remove_devices, self._prefix)
            self._make_pool()
            undo.pop_all()
        self.facts: dict[str, Json] = {
            "file_system": "ext4",
            "block_bytes": _BLOCK_SECTORS * _SECTOR_BYTES,
            "on": "two files, through loop devices",
        }

    def _make_pool(self) -> None:
        with ExitStack() as fds:
            devices = []
            for name, size_bytes in (("meta.img", _META_BYTES), ("data.img", _DATA_BYTES)):
                with (self._place / name).open("xb") as file:
                    file.truncate(size_bytes)
                fd, device = loop.attach(self._place / name)
                fds.callback(os.close, fd)  # the pool has it open by then
                devices.append(str(device))
            how = f"{' '.join(devices)} {_BLOCK_SECTORS} {_LOW_WATER_BLOCKS} 1 skip_block_zeroing"
            _dmsetup("create", self._pool, "--table", f"0 {_DATA_BYTES // _SECTOR_BYTES} thin-pool {how}")
        self._meta = devices[0]

    def _device(self, name: str) -> Path:
        return _node(self._prefix + name)

    def _message(self, text: str) -> None:
        _dmsetup("message", self._pool, "0", text)

    def _create(self, name: str, how: str) -> None:
        """Make a thin device and bring it up."""
        self._ids[name] = number = self._next
        self._next += 1
        self._message(how.format(number))
        table = f"0 {_DEVICE_BYTES // _SECTOR_BYTES} thin {_node(self._pool)} {number}"
        _dmsetup("create", self._prefix + name, "--table", table)

    def add(self, name: str, parent: str | None, layer: Path) -> None:
        if parent is None:
            self._create(name, "create_thin {}")
            argv = ["mkfs.ext4", "-q", "-F", "-m0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]
            run([*argv, str(self._device(name))], timeout_ns=_TOOL_NS)
        else:
            self.prepare(name, parent)
        with self._mounted(name) as root:
            if parent is None:
                (root / "lost+found").rmdir()
            apply_layer(layer, root)
        self._take_down(name)

    def prepare(self, key: str, parent: str) -> None:
        self._create(key, f"create_snap {{}} {self._ids[parent]}")

    @contextmanager
    def _mounted(self, name: str) -> Iterator[Path]:
        fd = self.mount(name).fd
        try:
            yield Path(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def mount(self, key: str, *, readonly: bool = False) -> Mounted:
        attrs = syscalls.MOUNT_ATTR_RDONLY if readonly else 0
        return Mounted(detached.new_mount("ext4", [f"source={self._device(key)}"], attrs=attrs))

    def usage_bytes(self, key: str) -> int:
        """By the pool's own metadata, of which a snapshot is taken to be read (thin_ls(8))."""
        self._message("reserve_metadata_snap")
        try:
            listed = run(["thin_ls", "-m", "--no-headers", "-o", "DEV,EXCLUSIVE_BYTES", self._meta]).stdout.decode()
        finally:
            self._message("release_metadata_snap")
        sizes = dict(line.split() for line in listed.splitlines() if line.strip())
        return int(sizes[str(self._ids[key])])

    def _take_down(self, name: str) -> None:
        _remove(self._prefix + name)

    def remove(self, key: str) -> None:
        self._take_down(key)
        self._message(f"delete {self._ids.pop(key)}")

    def close(self) -> None:
        remove_devices(self._prefix)
        shutil.rmtree(self._place)


def _node(name: str) -> Path:
    """Return the kernel's own node of a device: a name in /dev/mapper is udev's work, which not every system has."""
    for file in Path("/sys/block").glob("dm-*/dm/name"):
        if file.read_text().strip() == name:
            return Path("/dev") / file.parents[1].name
    raise CapabilityError(f"devicemapper: {name}: no such device")


def device_names() -> list[str]:
    """Return the names of all devices that runs made, pools last; none where there is no device mapper."""
    if not _is_loaded():
        return []
    listed = _dmsetup("ls").splitlines()
    names = [line.split()[0] for line in listed if line.startswith(PREFIX)]
    return sorted(names, key=lambda name: (name.endswith("-pool"), name))


def _is_loaded() -> bool:
    return "device-mapper" in Path("/proc/misc").read_text().split()


def remove_devices(prefix: str) -> None:
    for name in device_names():
        if name.startswith(prefix):
            _remove(name)


def _remove(name: str) -> None:
    """A device is busy for a moment after its file system was unmounted: what was mounted is put away later."""
    deadline_ns = time.monotonic_ns() + _BUSY_NS
    while True:
        try:
            _dmsetup("remove", name)
        except CommandError as error:
            if "busy" not in error.stderr_tail.lower() or time.monotonic_ns() > deadline_ns:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _dmsetup(*arguments: str) -> str:
    """Return what dmsetup prints. Its first line says what went wrong, the last only that it did."""
    try:
        return run(["dmsetup", *arguments], timeout_ns=_TOOL_NS).stdout.decode()
    except CommandError as error:
        said = error.stderr_tail.strip().splitlines()
        raise CommandError(error.argv, error.returncode, "; ".join(said[:-1] or said)) from None


def _open(place: Path, token: str) -> Driver:
    return DeviceMapper(place, token)


KIND = Kind("devicemapper", "thin block devices and snapshots of them by the device mapper, ext4 on each", _open,
            ("dmsetup", "thin_ls", "mkfs.ext4"), hint="modprobe dm_thin_pool")  # fmt: skip

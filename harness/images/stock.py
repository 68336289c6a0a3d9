"""A distribution's own system on a disk, as clouds offer it: bootloader, initramfs, systemd; made once, from packages.

    CACHE/systems/RECIPE/disk.raw      MBR, GRUB behind it, one ext4 partition; read-only: trials get an image on top
    CACHE/systems/RECIPE/system.json   what it holds

`python -m harness.images.stock make` makes it, about two minutes; `show` says which one is there. Nothing is installed
on the host and no loop device is used: the files are put into the file system by mke2fs, GRUB is two files copied to
the first sectors. All that is not stock is one service: it unpacks the agent from a second disk and runs it.

Source: Documentation/arch/x86/boot.rst for the kernel; GRUB manual, "BIOS installation" for the first sectors.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CapabilityError, CommandError, HarnessError, ImageError
from harness.host.paths import cache_dir
from harness.host.process import run
from harness.images.distribution import Base, make_tar

SPEC_SERIAL = "harness-spec"
"""Serial number of the disk that holds the agent and its specification, as a cpio archive."""

SUITE = "bookworm"
PACKAGES = (
    "linux-image-cloud-amd64", "grub-pc-bin", "grub-common", "systemd-sysv", "systemd-timesyncd", "udev", "dbus",
    "kmod", "iproute2", "openssh-server", "cron", "cpio",
)  # fmt: skip
_UUID = "68617261-6573-7300-8000-000000000002"  # fixed: GRUB and /etc/fstab name it
_SECTOR_BYTES = 512
_PARTITION_SECTOR = 2048
_DISK_BYTES = 3 << 30  # sparse
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "echo")
_TIMEOUT_NS = 900 * 10**9
CMDLINE = f"root=UUID={_UUID} ro net.ifnames=0 earlyprintk=serial,0xe9,115200,keep loglevel=6 panic=-1"

_UNIT = rf"""[Unit]
Description=The harness' agent, which starts the workload
Requires=dev-disk-by\x2did-virtio\x2d{SPEC_SERIAL.replace("-", chr(92) + "x2d")}.device
After=dev-disk-by\x2did-virtio\x2d{SPEC_SERIAL.replace("-", chr(92) + "x2d")}.device

[Service]
Type=exec
StateDirectory=harness
WorkingDirectory=/var/lib/harness
ExecStartPre=/bin/sh -c 'exec cpio -idu --quiet </dev/disk/by-id/virtio-{SPEC_SERIAL}'
ExecStart=/var/lib/harness/init --in-system

[Install]
WantedBy=multi-user.target
"""
_FILES = {
    "etc/fstab": f"UUID={_UUID} / ext4 errors=remount-ro 0 1\n",
    "etc/hostname": "guest\n",
    "etc/machine-id": f"{_UUID.replace('-', '')}\n",  # a system that has been booted before, not one being set up
    "etc/systemd/system/harness.service": _UNIT,
}


@dataclass(frozen=True, slots=True)
class System:
    """A system's disk. `release` is its kernel's, `packages` what it was made of."""

    disk: Path
    release: str
    packages: tuple[str, ...]
    suite: str


def find(cache: Path) -> System | None:
    """Return the system that this version of the harness would make, None where it was not made yet."""
    place = _place(cache)
    try:
        facts = json.loads((place / "system.json").read_text())
    except FileNotFoundError:
        return None
    return System(place / "disk.raw", facts["release"], tuple(facts["packages"]), facts["suite"])


def make(cache: Path) -> System:
    """Return the system, made if it is not there yet; safe beside other processes.

    Raises: CapabilityError without root or a program; ImageError with what mmdebstrap said; CommandError.
    """
    if os.geteuid() != 0:
        raise CapabilityError("system disk: only root can keep the owners of its files", hint="run as root")
    place = _place(cache)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if find(cache) is None:
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=place.parent) as scratch:
                _fill(Path(scratch)).rename(place)
    finally:
        os.close(lock)
    found = find(cache)
    assert found is not None, place
    return found


def _place(cache: Path) -> Path:
    recipe = json.dumps([SUITE, PACKAGES, _GRUB_MODULES, CMDLINE, _FILES])
    return cache / "systems" / f"{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def _fill(scratch: Path) -> Path:
    tree, done = scratch / "tree", scratch / "done"
    scratch.chmod(0o755)  # apt's own user reads there
    tree.mkdir()
    done.mkdir()
    tar = scratch / "root.tar"
    make_tar(Base("debian", SUITE, include=PACKAGES), tar)
    run(["tar", "--numeric-owner", "--xattrs", "-xpf", str(tar), "-C", str(tree)], timeout_ns=_TIMEOUT_NS)
    tar.unlink()
    release = _finish_tree(tree)
    _write_disk(tree, done / "disk.raw")
    facts = {"release": release, "packages": PACKAGES, "suite": SUITE}
    (done / "system.json").write_text(json.dumps(facts, indent=1) + "\n")
    shutil.rmtree(tree)
    return done


def _finish_tree(tree: Path) -> str:
    """Add what a system has once it is installed; return its kernel's release."""
    kernels = [*tree.glob("boot/vmlinuz-*")]
    if len(kernels) != 1 or not (tree / "boot" / kernels[0].name.replace("vmlinuz", "initrd.img")).exists():
        raise ImageError(f"system disk: {len(kernels)} kernels with an initramfs in the packages, not one")
    release = kernels[0].name.removeprefix("vmlinuz-")
    for path in ("dev", "proc", "sys", "run", "mnt", "boot/grub", "etc/systemd/system/multi-user.target.wants"):
        (tree / path).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (tree / name).write_text(text)
    (tree / "etc/systemd/system/multi-user.target.wants/harness.service").symlink_to("../harness.service")
    (tree / "boot/grub/grub.cfg").write_text(
        f"linux /boot/vmlinuz-{release} {CMDLINE}\ninitrd /boot/initrd.img-{release}\nboot\n"
    )
    return release


def _write_disk(tree: Path, disk: Path) -> None:
    first, core = _grub(tree)
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
        file.write(master_boot_record(first, _DISK_BYTES // _SECTOR_BYTES))
        file.write(core)
    start = _PARTITION_SECTOR * _SECTOR_BYTES
    argv = [
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-U", _UUID,
        "-E", f"offset={start},lazy_itable_init=0,root_owner=0:0", "-d", str(tree), str(disk),
        f"{(_DISK_BYTES - start) // 1024}k",
    ]  # fmt: skip
    run(argv, timeout_ns=_TIMEOUT_NS)


def _grub(tree: Path) -> tuple[bytes, bytes]:
    """Return GRUB's first sector, which loads what is behind it, and that: the rest, with all modules it needs."""
    argv = ["grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", "/core.img", *_GRUB_MODULES]
    try:
        run(["chroot", str(tree), *argv], timeout_ns=_TIMEOUT_NS)
    except CommandError as error:
        raise ImageError(f"system disk: {error.message}") from error
    core = tree / "core.img"
    found = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes(), core.read_bytes()
    core.unlink()
    return found


def master_boot_record(boot_code: bytes, sectors: int) -> bytes:
    """Return the first sector: GRUB's code, and a table with one bootable Linux partition up to the end of the disk.

    The code, as it is shipped, loads the sectors behind it, and so do those among each other.
    """
    if sectors <= (_PARTITION_SECTOR + 1) or len(boot_code) != _SECTOR_BYTES:
        raise ValueError(f"master boot record: {len(boot_code)} bytes of code, {sectors} sectors")
    no_chs = b"\xfe\xff\xff"  # beyond what cylinders, heads and sectors can say: the numbers behind count
    length = sectors - _PARTITION_SECTOR
    partition = b"\x80" + no_chs + b"\x83" + no_chs + struct.pack("<II", _PARTITION_SECTOR, length)
    return boot_code[:446] + partition + bytes(48) + b"\x55\xaa"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `make` or `show` and print the system. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.images.stock", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("make", "show"))
    parser.add_argument("--cache", type=Path, default=cache_dir(), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        system = make(arguments.cache) if arguments.command == "make" else find(arguments.cache)
        if system is None:
            raise CapabilityError("system disk: none made yet", hint="python -m harness.images.stock make")
    except HarnessError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    sys.stdout.write(f"{system.suite} {system.release} {system.disk}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

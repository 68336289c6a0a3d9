"""What the storage drivers of a dead run left: processes of fuse-overlayfs, devices of the device mapper, directories.

Detached mounts and loop devices need no looking for: they end with the process that held them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from harness.images.storage import devicemapper, fuse_overlayfs
from harness.images.storage.kinds import home

_TOKEN = re.compile(r"[0-9a-f]{8}")


def tokens(base: Path) -> set[str]:
    """Return the tokens of all runs, living or dead, of which something is here."""
    place = home(base, "token").parent
    found = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
    found |= {name.removeprefix(devicemapper.PREFIX)[:8] for name in _devices()}
    return {token for token in found if _TOKEN.fullmatch(token)}


def reap(base: Path, token: str, *, dry_run: bool) -> list[str]:
    """Remove what the run `token` left; return one line for each thing found."""
    place, prefix = home(base, token), f"{devicemapper.PREFIX}{token}-"
    lines = []
    for pid in _processes(place):
        lines.append(f"process: {fuse_overlayfs.PROGRAM}, pid {pid}")
        if not dry_run:
            os.kill(pid, signal.SIGKILL)
    devices = [name for name in _devices() if name.startswith(prefix)]
    lines += [f"device: {name}" for name in devices]
    if devices and not dry_run:
        devicemapper.remove_devices(prefix)
    if place.is_dir():
        lines.append(f"directory: {place}")
        if not dry_run:
            shutil.rmtree(place)
    return lines


def _devices() -> list[str]:
    return devicemapper.device_names() if os.geteuid() == 0 else []


def _processes(place: Path) -> Iterator[int]:
    """Yield the pids of the programs that serve a directory's overlays: their command lines name it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        named = any(f"{place}/" in os.fsdecode(word) for word in argv[1:])
        if Path(os.fsdecode(argv[0])).name == fuse_overlayfs.PROGRAM and named:
            yield int(entry.name)

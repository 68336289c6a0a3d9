"""Chains of qcow2 images: each holds what differs from the one below it, as the layers of a container do.

    disks/ROOT_DIGEST.chain/001     the lowest image, raw (`disk.disk_image`)
    disks/ROOT_DIGEST.chain/002     the second one, empty, over it; and so on: a deeper chain continues a shorter one

Images that hold nothing make a chain deep without changing what is read; only the way to it gets longer.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.host.process import run

_TIMEOUT_NS = 60 * 10**9
Format = Literal["raw", "qcow2"]


@dataclass(frozen=True, slots=True)
class Link:
    """An image of a chain."""

    path: Path
    format: Format


def chain(lowest: Path, depth: int) -> Link:
    """Return the top of a chain of `depth` images, the lowest one among them; those that are missing are made.

    Raises: CapabilityError where qemu-img is missing, CommandError.
    """
    top = Link(lowest, "raw")
    if depth == 1:
        return top
    lock = os.open(lowest.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number in range(2, depth + 1):
            path = lowest.with_name(f"{number:03}")
            if not path.exists():
                put_on(top.path, top.format, path.with_suffix(".partial")).rename(path)
            top = Link(path, "qcow2")
    finally:
        os.close(lock)
    return top


def put_on(below: Path, below_format: str, path: Path) -> Path:
    """Make an empty image at `path` that shows what is below it until something is written. Raises: CommandError."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below.absolute()), "-F", below_format, str(path)]
    run(argv, timeout_ns=_TIMEOUT_NS)
    return path

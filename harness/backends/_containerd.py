"""Where containerd keeps the only layer of an image, by `ctr`: for its own backend, and for Docker above it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from harness.errors import CapabilityError
from harness.host.process import find_program, run

_ASK_NS = 10_000_000_000


def ctr(socket: Path, namespace: str) -> list[str]:
    """Return the words with which each of its commands begins."""
    return [str(find_program("ctr")), "--address", str(socket), "--namespace", namespace]


def layer(command: Sequence[str], snapshotter: str, view: str, diff_id: str) -> Path:
    """Return the directory of an image's only layer: what a view of it would mount; the view itself is dropped.

    Raises: CapabilityError where it is no directory, CommandError.
    """
    words = ["snapshots", "--snapshotter", snapshotter, "view", "--mounts", view, diff_id]
    mounts = json.loads(run([*command, *words], timeout_ns=_ASK_NS).stdout)
    if len(mounts) != 1 or mounts[0]["Type"] != "bind":
        raise CapabilityError(f"ctr: snapshots: a view of one layer is not one bind mount: {mounts}")
    return Path(mounts[0]["Source"])

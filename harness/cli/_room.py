"""Whether a disk takes what a run writes, and how full it is: asked before a run, told when it failed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.errors import StoreError
from harness.model.units import format_bytes

_HINT = "--results DIR lets the run go elsewhere"


def refuse_unwritable(directory: Path) -> None:
    """Make the directory, and ask whether something can be made in it: before minutes go into preparing a run.

    Raises: StoreError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be created: {error.strerror}", hint=_HINT) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(f"{directory}: cannot be written: no permission, or a read-only disk", hint=_HINT)


def room(path: Path) -> str:
    """Return the disk of a path with what is free on it."""
    place = path.resolve()
    mount = next(directory for directory in (place, *place.parents) if directory.is_mount())
    usage = shutil.disk_usage(mount)
    return f"the disk at {mount} has {format_bytes(usage.free)} free of {format_bytes(usage.total)}"

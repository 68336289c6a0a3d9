"""The storage drivers by name, and whether each works here: tried with a tiny image, never told from a version."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
from contextlib import ExitStack
from pathlib import Path

from harness.errors import CapabilityError, CommandError
from harness.host.process import find_program
from harness.images.storage import aufs, btrfs, devicemapper, erofs, fuse_overlayfs, overlay, vfs
from harness.images.storage.seam import Driver, Kind
from harness.interfaces import Capability

KINDS: dict[str, Kind] = {
    module.KIND.name: module.KIND for module in (overlay, fuse_overlayfs, vfs, btrfs, erofs, devicemapper, aufs)
}


def home(base: Path, token: str) -> Path:
    """Return the directory of everything that the drivers of one run make, on the disk with the images."""
    return base / "storage" / token


def open_driver(name: str, base: Path, token: str, arm: str = "driver") -> Driver:
    """Return a driver at work below `base`; each `arm` has its own. Raises: CapabilityError."""
    place = home(base, token) / f"{arm}-{name}"
    place.mkdir(parents=True, mode=0o700)
    try:
        return KINDS[name].open(place, token)
    except BaseException:
        shutil.rmtree(place)
        raise


def release(base: Path, token: str) -> None:
    """Remove the directory of a run once its last driver is closed."""
    place = home(base, token)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()


@functools.cache
def available(name: str, base: Path) -> Capability:
    """Return whether a driver works on this host: a layer, a writable one over it, a write, and all gone again."""
    kind, token = KINDS[name], secrets.token_hex(4)
    if os.geteuid() != 0:
        return Capability(name, available=False, reason=f"uid {os.geteuid()}", hint="run as root")
    try:
        for program in kind.programs:
            find_program(program)
        _try(name, base, token)
    except (CapabilityError, OSError) as error:
        reason = _reason(error).removeprefix(f"{name}: ")
        return Capability(name, available=False, reason=reason, hint=getattr(error, "hint", None) or kind.hint)
    finally:
        shutil.rmtree(home(base, token), ignore_errors=True)
    return Capability(name, available=True, reason=kind.doc)


def _reason(error: CapabilityError | OSError) -> str:
    if isinstance(error, CommandError):  # dmsetup and mkfs say first what was wrong, and last that they failed
        return f"{error.argv[0]}: {''.join(error.stderr_tail.strip().splitlines()[:1])}"
    return error.message if isinstance(error, CapabilityError) else str(error)


def _try(name: str, base: Path, token: str) -> None:
    layer = home(base, token) / "layer"
    layer.mkdir(parents=True)
    (layer / "file").write_text(name)
    with ExitStack() as stack:
        driver = open_driver(name, base, token)
        stack.callback(driver.close)
        driver.add("layer", None, layer)
        driver.prepare("probe", "layer")
        stack.callback(driver.remove, "probe")
        root = driver.mount("probe").fd
        stack.callback(os.close, root)
        file = Path(f"/proc/self/fd/{root}/file")
        if file.read_text() != name:
            raise CapabilityError("does not show what is in its layer")
        file.write_text("written")

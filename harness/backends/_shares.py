"""Directories of the host in a guest: by virtiofs, or by 9p where this host has no virtiofsd or the guest no driver."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.backends._domain import Machine, Share, ShareKind
from harness.errors import CapabilityError
from harness.host.process import find_program
from harness.model.spec import MountSpec

ShareOption = Literal["auto", "virtiofs", "9p"]
MODULES: dict[ShareKind, tuple[str, ...]] = {"virtiofs": ("virtiofs",), "9p": ("9p", "9pnet_virtio")}
_PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_NINE_OPTIONS = "trans=virtio,version=9p2000.L,msize=512000"


@dataclass(frozen=True, slots=True)
class Way:
    """How directories are shared; `program` is the virtiofsd, None for 9p; `reason` says why this way."""

    kind: ShareKind
    program: Path | None
    reason: str


def choose(wanted: ShareOption, machine: Machine, kernel_has: Callable[[ShareKind], None]) -> Way:
    """Return how directories are shared here. `kernel_has` raises CapabilityError where the guest's kernel cannot.

    Raises: CapabilityError, naming what is missing for each way that was tried.
    """
    errors: list[CapabilityError] = []
    kinds: tuple[ShareKind, ...] = ("virtiofs", "9p") if wanted == "auto" else (wanted,)
    for kind in kinds:
        try:
            program = virtiofsd(machine) if kind == "virtiofs" else None
            kernel_has(kind)
        except CapabilityError as error:
            errors.append(error)
        else:
            found = f"by {program}" if program else "by QEMU itself"
            reason = "; ".join([found, *(f"not virtiofs: {error.message}" for error in errors)])
            return Way(kind, program, reason)
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    raise CapabilityError("; ".join(error.message for error in errors), hint="; or ".join(hints))


def virtiofsd(machine: Machine) -> Path:
    """virtiofsd is no command: distributions have it in different places, none of them in PATH."""
    if machine == "microvm":
        raise CapabilityError("virtiofs: a microvm has no PCI bus, which libvirt needs for it", hint="machine: q35")
    for place in _PLACES:
        if os.access(place, os.X_OK):
            return Path(place)
    try:
        return Path(find_program("virtiofsd"))
    except CapabilityError:
        hint = "apt-get install virtiofsd (Debian 12: it is in qemu-system-common)"
        raise CapabilityError(f"virtiofsd: not in {', '.join(_PLACES)}", hint=hint) from None


def shares(mounts: Sequence[MountSpec], way: Way, scratch: Path) -> tuple[Share, ...]:
    """Return a share for each bind; the programs of read-only ones are written into `scratch`."""
    return tuple(
        Share(
            way.kind,
            tag,
            Path(mount.source).resolve(),
            mount.read_only,
            _program(mount, way, scratch / f"virtiofsd-{tag}"),
        )
        for tag, mount in _tagged(mounts)
    )


def _tagged(mounts: Sequence[MountSpec]) -> list[tuple[str, MountSpec]]:
    return [(f"share{number}", mount) for number, mount in enumerate(mounts) if mount.kind == "bind"]


def _source(mount: MountSpec) -> Path:
    """Return the directory itself: virtiofsd refuses a link to one."""
    return Path(mount.source).resolve()


def _program(mount: MountSpec, way: Way, path: Path) -> Path | None:
    """Return what libvirt starts: virtiofsd, or what first makes the directory read-only for it.

    The guest mounts it read-only as well, but root in there could change that; the host's mount it cannot reach.
    """
    if way.program is None or not mount.read_only:
        return way.program
    source, program = shlex.quote(str(_source(mount))), shlex.quote(str(way.program))
    script = f'mount --rbind {source} {source} && mount -o remount,bind,ro {source} && exec {program} "$@"'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
        f'exec unshare --mount sh -c {shlex.quote(script)} virtiofsd "$@"\n'
    )
    path.chmod(0o700)
    return path


def records(
    mounts: Sequence[MountSpec], way: Way | None, tmpfs_options: Callable[[MountSpec], Sequence[str]]
) -> list[tuple[str, str]]:
    """Return what the agent reads of the mounts: five records each (`csrc/agent/vm_root.c`)."""
    tags = {mount.target: tag for tag, mount in _tagged(mounts)}
    words: list[str] = []
    for mount in mounts:
        mode = "ro" if mount.read_only else "rw"
        if mount.kind == "volume":
            words += ["ext4", f"disk:{mount.source}", mount.target, mode, ""]
        elif mount.kind == "tmpfs":
            words += ["tmpfs", "tmpfs", mount.target, mode, ",".join(tmpfs_options(mount))]
        else:
            assert way is not None
            options = _NINE_OPTIONS if way.kind == "9p" else ""
            words += [way.kind, tags[mount.target], mount.target, mode, options]
    return [("mount", word) for word in words]

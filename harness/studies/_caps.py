"""The cgroup of a ready instance: what the kernel counted of it, and caps that its backend does not set by itself.

A VM is as large as its RAM and its whole vCPUs; a limit of half a CPU is one of its monitor's cgroup. Disks are capped
where direct writes meet the cap: QEMU's own throttle of a disk for a VM, whose writes are the host's page cache's, and
the block device's throttle of a cgroup for all else.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from harness.container import cgroupfs, cgroups, resources
from harness.container.cgroup_layout import own_path
from harness.container.errors import ContainerError
from harness.errors import BackendError
from harness.images.trial_volumes import place_of
from harness.interfaces import Instance

_PERIOD_US = 100_000
_REMOVE_NS = 10_000_000_000


def group_of(instance: Instance) -> cgroups.Group | None:
    """Return the group of an instance in those trees in which it is not beside ourselves; None without any."""
    pids = instance.pids()
    layout, found = cgroups.detect(), []
    for tree in layout.full() if pids else ():
        with contextlib.suppress(ContainerError):
            own, home = own_path(tree, pids[0]), own_path(tree)
            if own not in {"", home}:
                found.append(f"{tree.path}{own}")
    return cgroups.Group.restored(layout, found, ()) if found else None


def path_of(instance: Instance, controller: str) -> str:
    """Return where a controller has an instance, below the root of its tree; empty where it has no place of its own."""
    tree, pids = cgroups.detect().of(controller), instance.pids()
    with contextlib.suppress(ContainerError):
        if tree is not None and pids and (path := own_path(tree, pids[0])) != own_path(tree):
            return path
    return ""


def waited_ns(group: cgroups.Group | None, resource: str) -> int | None:
    """Return how long tasks of a group have waited for `cpu`, `memory` or `io`, None where that is not counted."""
    found = group.stats().pressure.get(resource) if group else None
    return found.some_ns if found else None


def throttled_count(group: cgroups.Group | None) -> int | None:
    """Return in how many periods a group was stopped at its quota, None where it has none."""
    return group.stats().cpu.throttled_count if group else None


def cap_cpus(instance: Instance, cpus: float) -> bool:
    """Limit the CPU time of an instance by its cgroup; return whether that could be done. Raises: BackendError."""
    group = group_of(instance)
    if group is None:
        return False
    quota = resources.Cpu(quota_us=round(cpus * _PERIOD_US), period_us=_PERIOD_US)
    try:
        group.update(resources.Resources(cpu=quota))
    except ContainerError as error:
        raise BackendError(f"limit of CPU time: {error}") from error
    return True


# -- disks -------------------------------------------------------------------------------------------------------------


def cap_disk(instance: Instance, token: str, trial_id: str, bytes_per_s: int, undo: contextlib.ExitStack) -> str:
    """Limit what an instance writes to its scratch disk; return why that cannot be, empty where it is done.

    `undo` gets what removes a group that was made for it: to be closed when the instance is gone.
    """
    try:
        if instance.boundary == "vm":
            return _cap_vm_disk(instance, bytes_per_s)
        device = block_device(place_of(token, trial_id))
        if device is None:
            return "the host's file system is on no single block device"
        throttle = resources.Throttle(*device, bytes_per_s)
        limits = resources.Resources(block_io=resources.BlockIo(write_bytes=(throttle,)))
        return _cap_group(instance, token, trial_id, limits, undo)
    except (BackendError, ContainerError, OSError) as error:
        return str(error)


def block_device(path: Path) -> tuple[int, int] | None:
    """Return the whole disk (major, minor) that the nearest existing directory of `path` is on, None without one."""
    while not path.exists():
        path = path.parent
    device = path.stat().st_dev
    at = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not at.exists():
        return None
    disk = at.resolve().parent if (at / "partition").exists() else at
    major, _, minor = (disk / "dev").read_text().strip().partition(":")
    return int(major), int(minor)


def _cap_group(
    instance: Instance, token: str, trial_id: str, limits: resources.Resources, undo: contextlib.ExitStack
) -> str:
    layout = cgroups.detect()
    tree = layout.of("blkio")
    if tree is None:
        return _cap_unified(instance, token, limits)
    group = cgroups.Group.restored(layout, [f"{tree.path}/harness-{token}/{trial_id}"], ())
    group.create(limits, parents=True)  # what starts containers here makes no group of its own for their disks
    undo.callback(_remove, group)
    for pid in instance.pids():
        group.join_pid(pid)
    return ""


def _cap_unified(instance: Instance, token: str, limits: resources.Resources) -> str:
    """By the group that it has in cgroup2, to which the run's groups hand `io` down first."""
    layout = cgroups.detect()
    tree, path = layout.of("io"), path_of(instance, "io")
    if tree is None:
        return "no cgroup tree of this host limits disks"
    if not path.startswith(f"/harness-{token}/"):
        return "its runtime has put it in no group of the run"
    for above in above_of(path):
        cgroupfs.hand_down(f"{tree.path}{above}", frozenset({"io"}))
    cgroups.Group.restored(layout, [f"{tree.path}{path}"], ()).update(limits)
    return ""


def above_of(path: str) -> list[str]:
    """Return the groups above a group, the root first as the empty path: `/a/b/c` has ``, `/a` and `/a/b`."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _remove(group: cgroups.Group) -> None:
    group.remove(time.monotonic_ns() + _REMOVE_NS, parents=True)


def _cap_vm_disk(instance: Instance, bytes_per_s: int) -> str:
    """By QEMU itself: `block_set_io_throttle DEVICE BPS BPS_RD BPS_WR IOPS IOPS_RD IOPS_WR` of its monitor."""
    ask = getattr(instance, "monitor", None)
    if ask is None:
        return "this backend gives no way to its monitor"
    found = devices_of(ask("info block"))
    if not found:
        return "its scratch disk is not among the monitor's"
    for name in found:
        said = ask(f"block_set_io_throttle {name} 0 0 {bytes_per_s} 0 0 0").strip()
        if said:
            return f"QEMU: {said}"
    return ""


def devices_of(text: str) -> list[str]:
    """Return the names of the disks of volumes, from `info block` of QEMU's monitor."""
    found = []
    for part in re.split(r"\r?\n\r?\n", text):
        if "trial-volumes" in part:
            attached = re.search(r"Attached to:\s+(\S+)", part)
            found.append(attached[1] if attached else part.split()[0].rstrip(":"))
    return found

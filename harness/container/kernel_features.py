"""Which of the kernel's features a container start can use here: asked of the kernel, not guessed from its version."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from harness.container import cgroupfs, syscalls
from harness.container.cgroup_layout import detect


class Feature(NamedTuple):
    """One feature: whether it is here (None: cannot be told), what it is for, and what happens without it."""

    name: str
    available: bool | None
    use: str
    without: str


def probe() -> tuple[Feature, ...]:
    """Return the table. Some answers need root: without it they are None."""
    missing = syscalls.missing_features()
    calls = tuple(
        Feature(name, name not in missing, use, "containers cannot be started") for name, use in _CALLS.items()
    )
    return (*calls, *(Feature(name, ask(), use, without) for name, ask, use, without in _OTHERS))


_CALLS = {
    "clone3": "all namespaces, and the cgroup, by one call",
    "openat2": "paths of an image never lead out of it",
    "fsopen": "file systems are mounted by file descriptor",
    "move_mount": "on a directory that was checked, not on its path",
    "open_tree": "binds without a path that could change meanwhile",
    "mount_setattr": "read-only trees; mapped ids of mounts",
    "close_range": "no descriptor of the caller gets into a container",
}


def _into_cgroup() -> bool:
    return detect().unified is not None


def _cgroup_kill() -> bool | None:
    """The file is in every group but the root: any group will do (Linux 5.14)."""
    unified = detect().unified
    if unified is None:
        return False
    with os.scandir(unified.path) as entries:
        groups = [entry.path for entry in entries if entry.is_dir()]
    return any(os.path.exists(f"{path}/cgroup.kill") for path in groups) if groups else None


def _overlay_layers() -> bool | None:
    return syscalls.has_fs_option("overlay", "lowerdir+", "/") if os.geteuid() == 0 else None


def _user_namespaces() -> bool:
    return (cgroupfs.read_number("/proc/sys/user/max_user_namespaces") or 0) > 0


def _seccomp() -> bool:
    return "errno" in (cgroupfs.read("/proc/sys/kernel/seccomp/actions_avail") or "")


_OTHERS: tuple[tuple[str, Callable[[], bool | None], str, str], ...] = (
    ("CLONE_INTO_CGROUP", _into_cgroup, "born in its cgroup2 group", "cgroup v1: it moves itself, by `tasks`"),
    ("cgroup.kill", _cgroup_kill, "a group ends at once", "it is frozen and its processes are killed one by one"),
    ("overlay lowerdir+", _overlay_layers, "overlays of config.json: 500 layers", "one page of options for them"),
    ("user namespaces", _user_namespaces, "rootless containers, mapped ids", "rootless containers do not work"),
    ("time namespaces", lambda: os.path.exists("/proc/self/ns/time"), "clocks with offsets", "refused where asked"),
    ("seccomp", _seccomp, "system calls are filtered", "containers with a filter are refused"),
)

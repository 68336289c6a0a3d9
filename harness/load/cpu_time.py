"""CPU time that the host spent on an instance: everything in its cgroups, threads of the kernel that serve it included.

A VMM's vCPUs, I/O threads and vhost workers are in its cgroup (vhost workers join their owner's: kernel/vhost_task.c,
and drivers/vhost/vhost.c before Linux 6.4), as are processes of a container that have ended. What is not in a cgroup of
its own (a helper that a daemon has started in its own) is counted by its threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from harness.container import cgroup_layout, cgroupfs
from harness.container.errors import ContainerError

_PROC = Path("/proc")


class Meter:
    """Reads the CPU time of the instance that `pids` belong to. It looks up their cgroups once, at the beginning.

    A group counts as the instance's own unless the harness itself is in it, or it is the top of its tree.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        pids = tuple(pids)
        groups = {pid: _own_group(pid) for pid in pids}
        self._files = tuple(sorted(_outermost({group for group in groups.values() if group})))
        self._others = tuple(pid for pid in pids if not groups[pid])

    @property
    def counted(self) -> str:
        """Say what is counted, for people."""
        counts = ((len(self._files), "cgroup", "cgroups"), (len(self._others), "process", "processes"))
        return " and ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)

    def read_ns(self) -> int | None:
        """Return the CPU time up to now; None where there is nothing to read it from."""
        if not self._files and not self._others:
            return None
        groups = [_usage_ns(directory) for directory in self._files]
        if None in groups:
            return None
        return sum(filter(None, groups)) + sum(_threads_ns(pid) + _children_ns(pid) for pid in self._others)


def _own_group(pid: int) -> str:
    """Return the directory of the group that counts a process' CPU time and is not ours; empty where there is none.

    cgroup v1 counts in `cpuacct`, cgroup2 without any controller: a hybrid host has both, and a runtime may use one.
    """
    layout = cgroup_layout.detect()
    for tree in (layout.of("cpuacct"), layout.unified):
        if tree is not None and (path := _path(pid, tree)) not in {"", _path("self", tree)}:
            return f"{tree.path}{path}"
    return ""


def _path(who: int | str, tree: cgroup_layout.Hierarchy) -> str:
    """Return where a process is in a tree: empty for its top, and where it has ended."""
    try:
        return cgroup_layout.own_path(tree, who)
    except ContainerError:
        return ""


def _outermost(groups: set[str]) -> set[str]:
    """Leave out groups below others of the set: their time is counted there."""
    return {group for group in groups if not any(group.startswith(f"{other}/") for other in groups)}


def _usage_ns(directory: str) -> int | None:
    v1_ns = cgroupfs.read_number(f"{directory}/cpuacct.usage")
    if v1_ns is not None:
        return v1_ns
    micros = cgroupfs.parse_stat(cgroupfs.read(f"{directory}/cpu.stat") or "").get("usage_usec")
    return None if micros is None else micros * 1000


def _threads_ns(pid: int) -> int:
    """Return the CPU time of a process' living threads: the first number of each schedstat, in ns (proc(5))."""
    total = 0
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for task in tasks:
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def _children_ns(pid: int) -> int:
    """Return the CPU time of children that a process has waited for, in clock ticks (proc(5), stat: fields 16, 17)."""
    try:
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(words[13]) + int(words[14])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

"""CPU time that the host spent on an instance: everything in its cgroups, threads of the kernel that serve it included.

A VMM's vCPUs, I/O threads and vhost workers are in its cgroup (vhost workers join their owner's: kernel/vhost_task.c,
and drivers/vhost/vhost.c before Linux 6.4), as are processes of a container that have ended. What is not in a cgroup of
its own (a helper that a daemon has started, a VMM where the tree that counts is not joined) is counted by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.container import cgroup_layout, cgroupfs
from harness.container.errors import ContainerError

_PROC = Path("/proc")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Meter:
    """Reads the CPU time of the instance whose processes `pids` lists: of their groups, and of each that is in none.

    A group counts as the instance's own unless the harness itself is in it, or it is the top of its tree. Groups are
    looked up once, at the beginning; the other processes are listed anew by each reading.

    `from_start`: the reading itself is wanted, no difference of two. Then groups do not count that may have served
    instances before: systemd-nspawn's `payload`, for one, is everybody's.
    """

    def __init__(self, pids: Callable[[], Iterable[int]], *, from_start: bool = False) -> None:
        self._pids = pids
        self._from_start = from_start
        self._groups = tuple(sorted(_outermost({group for pid in pids() if (group := self._group(pid))})))

    def _group(self, pid: int) -> str:
        return _own_group(pid, for_one=self._from_start)

    def _others(self) -> list[int]:
        return [pid for pid in self._pids() if not self._group(pid)]

    @property
    def counted(self) -> str:
        """Say what is counted, for people."""
        counts = ((len(self._groups), "cgroup", "cgroups"), (len(self._others()), "process", "processes"))
        return " and ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)

    def read_ns(self) -> int | None:
        """Return the CPU time up to now; None where there is nothing to read it from."""
        others = self._others()
        if not self._groups and not others:
            return None
        used = [_usage_ns(directory) for directory in self._groups]
        if None in used:
            return None
        return sum(filter(None, used)) + sum(_process_ns(pid) for pid in others)


def _own_group(pid: int, *, for_one: bool) -> str:
    """Return the directory of the group that counts a process' CPU time and is not ours; empty where there is none.

    `for_one`: only a group that was made for one instance. One right below the top is so only where it is a run's own.
    cgroup v1 counts in `cpuacct`, cgroup2 without any controller: a hybrid host has both, and a runtime may use one.
    """
    layout = cgroup_layout.detect()
    for tree in (layout.of("cpuacct"), layout.unified):
        if tree is None or (path := _path(pid, tree)) in {"", _path("self", tree)}:
            continue
        if not for_one or path.count("/") > 1 or path.startswith("/harness-"):
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


def _process_ns(pid: int) -> int:
    """Return the CPU time of a process and of the children that it has waited for; 0 where it has ended.

    Threads tell theirs in ns (schedstat), but only living ones; what has ended is in the process' own account, in clock
    ticks (proc(5), stat: fields 14 to 17).
    """
    try:
        words = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        threads = sum(_schedstat_ns(task) for task in (_PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own, children = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
    return max(threads, own * _TICK_NS) + children * _TICK_NS


def _schedstat_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0

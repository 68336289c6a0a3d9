"""CPU time that the host spent on an instance: everything in its cgroups, threads of the kernel that serve it included.

A VMM's vCPUs, I/O threads and vhost workers are in its cgroup (vhost workers join their owner's: kernel/vhost_task.c,
and drivers/vhost/vhost.c before Linux 6.4), as are processes of a container that have ended. What is not in a cgroup of its
own (a helper that a daemon has started in its own) is counted by its threads.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.container import cgroup_layout, cgroupfs
from harness.container.errors import ContainerError

_PROC = Path("/proc")


class Meter:
    """Reads the CPU time of the instance that `pids` belong to. It looks up their cgroups once, at the beginning.

    `shared` are cgroups that hold more than instances: where the harness itself is, and the root of each tree.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._tree = _accounting_tree()
        shared = {"", _group_of("self", self._tree)}
        groups = {pid: _group_of(pid, self._tree) for pid in pids}
        own = set(groups.values()) - shared
        self._files = tuple(self._file(group) for group in sorted(_outermost(own)))
        self._others = tuple(pid for pid, group in groups.items() if group not in own)

    def _file(self, group: str) -> str:
        assert self._tree is not None
        name = "cpuacct.usage" if self._tree.version == 1 else "cpu.stat"
        return f"{self._tree.path}{group}/{name}"

    def read_ns(self) -> int | None:
        """Return the CPU time up to now; None where there is nothing to read it from."""
        if not self._files and not self._others:
            return None
        groups = [_usage_ns(path) for path in self._files]
        if None in groups:
            return None
        return sum(filter(None, groups)) + sum(_threads_ns(pid) for pid in self._others)


def _accounting_tree() -> cgroup_layout.Hierarchy | None:
    """Return the tree that counts CPU time: v1's `cpuacct`, else cgroup2, which does so without a controller."""
    layout = cgroup_layout.detect()
    return layout.of("cpuacct") or layout.unified


def _group_of(pid: int | str, tree: cgroup_layout.Hierarchy | None) -> str:
    """Return the path of a process' group below the top of the tree: empty for the top, and where it has ended."""
    if tree is None:
        return ""
    try:
        return cgroup_layout.own_path(tree, pid)
    except ContainerError:
        return ""


def _outermost(groups: set[str]) -> set[str]:
    """Leave out groups below others of the set: their time is counted there."""
    return {group for group in groups if not any(group.startswith(f"{other}/") for other in groups)}


def _usage_ns(path: str) -> int | None:
    if path.endswith("cpuacct.usage"):
        return cgroupfs.read_number(path)
    micros = cgroupfs.parse_stat(cgroupfs.read(path) or "").get("usage_usec")
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

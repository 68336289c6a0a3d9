"""Groups of processes with limits, on hosts with cgroup v1, v2 or both (hybrid).

A group NAME is a directory of that name in every hierarchy that is needed: those of the controllers memory, cpu and
pids, and the cgroup2 mount if there is one, since only it has `cgroup.kill` and CLONE_INTO_CGROUP. All lie at the roots
of their mounts, so that they can be found again by name alone, whoever looks.

Source: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from harness.container import cgroupfs, mountinfo, syscalls
from harness.container.errors import ContainerError
from harness.container.plan import Joins

Mode = Literal["v1", "v2", "hybrid"]

CONTROLLERS = ("memory", "cpu", "pids")
_KNOWN_V1 = frozenset(
    "blkio cpu cpuacct cpuset devices freezer hugetlb memory net_cls net_prio perf_event pids rdma".split()
)
_PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group may use; memory without swap."""

    memory_bytes: int
    cpus: float
    pids: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What is charged to a group, in bytes; None where this cgroup version does not tell."""

    anon_bytes: int | None
    file_bytes: int | None
    kernel_bytes: int | None
    current_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup tree."""

    path: str
    version: Literal[1, 2]
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Layout:
    """The cgroup trees of this host."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def mode(self) -> Mode | None:
        """None where nothing is mounted; a v1 tree without controllers (name=systemd) does not count."""
        versions = {tree.version for tree in self.hierarchies if tree.version == 2 or tree.controllers}
        if not versions:
            return None
        return "hybrid" if len(versions) == 2 else "v2" if 2 in versions else "v1"

    @property
    def unified(self) -> Hierarchy | None:
        return next((hierarchy for hierarchy in self.hierarchies if hierarchy.version == 2), None)

    def of(self, controller: str) -> Hierarchy | None:
        return next((hierarchy for hierarchy in self.hierarchies if controller in hierarchy.controllers), None)

    def missing(self) -> tuple[str, ...]:
        """Return the controllers that we need and that no hierarchy has."""
        return tuple(name for name in CONTROLLERS if self.of(name) is None)

    def used(self) -> tuple[Hierarchy, ...]:
        """Return the hierarchies in which a group has a directory, v1 first, each once.

        The freezer only where there is no cgroup2 to kill a group at once.
        """
        wanted = CONTROLLERS if self.unified else (*CONTROLLERS, "freezer")
        found = [hierarchy for name in wanted if (hierarchy := self.of(name)) is not None]
        found += [self.unified] if self.unified else []
        return tuple(sorted(dict.fromkeys(found), key=lambda hierarchy: hierarchy.version))

    @property
    def joins(self) -> Joins:
        """How a process of a plan gets into a group of this layout."""
        return Joins(sum(hierarchy.version == 1 for hierarchy in self.used()), self.unified is not None)


# -- what this host has ----------------------------------------------------------------------------------------------


def detect() -> Layout:
    """Return the cgroup trees that are mounted here.

    Each mount point is asked for its file system (statfs): a tree may be hidden by a later mount over it, and on a
    tmpfs of that name a mkdir succeeds and limits nothing.
    """
    found: dict[object, Hierarchy] = {}
    for mount in mountinfo.read():
        hierarchy = hierarchy_at(mount)
        magic = syscalls.CGROUP_SUPER_MAGIC if mount.fs_type == "cgroup" else syscalls.CGROUP2_SUPER_MAGIC
        if hierarchy and os.path.isdir(mount.point) and syscalls.fs_magic(mount.point) == magic:
            if hierarchy.version == 2:
                hierarchy = Hierarchy(mount.point, 2, _available(mount.point))
            found.setdefault(hierarchy.version == 2 or mount.options, hierarchy)
    return Layout(tuple(found.values()))


def hierarchy_at(mount: mountinfo.Mount) -> Hierarchy | None:
    """Return the tree that a mount shows, None for what is no cgroup.

    Which controllers a cgroup2 tree has is not in mountinfo: they are left empty.
    """
    if mount.fs_type == "cgroup2":
        return Hierarchy(mount.point, 2, frozenset())
    return Hierarchy(mount.point, 1, mount.options & _KNOWN_V1) if mount.fs_type == "cgroup" else None


def _available(root: str) -> frozenset[str]:
    return frozenset((cgroupfs.read(f"{root}/cgroup.controllers") or "").split())


def _take_home(there: str, home: str) -> None:
    """Move the calling thread (v1) or process (v2) back, and every other thread of this process that is there."""
    cgroupfs.write(home, "0")
    if there.endswith("/tasks"):
        for tid in (cgroupfs.read(there) or "").split():
            if os.path.exists(f"/proc/self/task/{tid}"):
                cgroupfs.write(home, tid)


def own_path(hierarchy: Hierarchy) -> str:
    """Return where the calling thread is in a hierarchy: a path below its root, empty for the root itself."""
    for line in (cgroupfs.read("/proc/thread-self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        controllers = frozenset(names.split(",")) & _KNOWN_V1
        if controllers == hierarchy.controllers if hierarchy.version == 1 else not names:
            return path.rstrip("/")
    raise ContainerError("cgroup", 0, f"{hierarchy.path}: /proc/thread-self/cgroup does not name it")


def prepare_parent(layout: Layout, parent: str) -> None:
    """Make the group that holds others: not timed. Raises ContainerError (EBUSY where v2 has processes in the way)."""
    try:
        for hierarchy in layout.used():
            path = f"{hierarchy.path}/{parent}"
            cgroupfs.make_directory(path)
            if hierarchy.version == 2:
                for directory in (hierarchy.path, path):
                    _hand_down(directory, hierarchy.controllers & set(CONTROLLERS))
    except ContainerError:
        remove_parent(layout, parent)
        raise


def _hand_down(directory: str, controllers: frozenset[str]) -> None:
    """Let the groups below have the controllers: all by one write, so that either all are enabled or none.

    One by one, `cpu` would be granted even in a group with processes: it turns that group into a threaded one, and what
    follows is refused with EOPNOTSUPP (cgroup-v2.rst, "Threads").
    """
    enabled = (cgroupfs.read(f"{directory}/cgroup.subtree_control") or "").split()
    if wanted := controllers.difference(enabled):
        cgroupfs.write(f"{directory}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))


def remove_parent(layout: Layout, parent: str) -> None:
    """Remove the group that held others, unless some are still in it: then its last user does."""
    for hierarchy in layout.used():
        try:
            os.rmdir(f"{hierarchy.path}/{parent}")
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY}:
                raise ContainerError("cgroup", error.errno or 0, parent) from error


# -- one group -------------------------------------------------------------------------------------------------------


class Group:
    """A group of one layout. `name` is its path below the roots, such as `harness-1a2b3c4d/b00-vm`."""

    def __init__(self, layout: Layout, name: str) -> None:
        if any(part in {"", ".", ".."} for part in name.split("/")):
            raise ContainerError("cgroup", 0, f"{name}: not a group's name")
        self._layout = layout
        self.name = name
        self.directories = tuple(f"{hierarchy.path}/{name}" for hierarchy in layout.used())

    def _at(self, controller: str) -> str:
        hierarchy = self._layout.of(controller)
        if hierarchy is None:
            raise ContainerError("cgroup", 0, f"{controller}: no such controller here")
        return f"{hierarchy.path}/{self.name}"

    def create(self, limits: Limits | None) -> None:
        """Make its directories and set its limits (None: none); on failure nothing is left. Its parent must exist."""
        with ExitStack() as undo:
            for directory in self.directories:
                cgroupfs.make_directory(directory, exist_ok=False)
                undo.callback(os.rmdir, directory)
            if limits is not None:
                self._set_memory(limits.memory_bytes)
                self._set_cpu(limits.cpus)
                cgroupfs.write(f"{self._at('pids')}/pids.max", str(limits.pids))
            undo.pop_all()

    def _is_v1(self, controller: str) -> bool:
        hierarchy = self._layout.of(controller)
        return hierarchy is not None and hierarchy.version == 1

    def _set_memory(self, limit_bytes: int) -> None:
        at = self._at("memory")
        if not self._is_v1("memory"):
            cgroupfs.write(f"{at}/memory.max", str(limit_bytes))
            if os.path.exists(f"{at}/memory.swap.max"):  # absent where the kernel has no swap
                cgroupfs.write(f"{at}/memory.swap.max", "0")
            return
        cgroupfs.write(f"{at}/memory.limit_in_bytes", str(limit_bytes))
        if os.path.exists(f"{at}/memory.memsw.limit_in_bytes"):  # absent with swapaccount=0
            cgroupfs.write(f"{at}/memory.memsw.limit_in_bytes", str(limit_bytes))
        else:
            cgroupfs.write(f"{at}/memory.swappiness", "0")

    def _set_cpu(self, cpus: float) -> None:
        quota_us = max(1000, round(cpus * _PERIOD_US))  # the kernel's own minimum is 1 ms
        if self._is_v1("cpu"):
            cgroupfs.write(f"{self._at('cpu')}/cpu.cfs_period_us", str(_PERIOD_US))
            cgroupfs.write(f"{self._at('cpu')}/cpu.cfs_quota_us", str(quota_us))
        else:
            cgroupfs.write(f"{self._at('cpu')}/cpu.max", f"{quota_us} {_PERIOD_US}")

    @contextmanager
    def join_fds(self) -> Iterator[tuple[int, ...]]:
        """Yield the fds that a plan with this layout's `joins` needs, in its order."""
        with ExitStack() as stack:
            fds = []
            for hierarchy, directory in zip(self._layout.used(), self.directories, strict=True):
                path, flags = (
                    (f"{directory}/tasks", os.O_WRONLY) if hierarchy.version == 1 else (directory, os.O_RDONLY)
                )
                fds.append(os.open(path, flags | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            yield tuple(fds)

    @contextmanager
    def caller_inside(self) -> Iterator[None]:
        """Have the calling thread in the group for the while, so that what it starts is born there.

        On v1 a thread can move alone, and into `tasks` without waiting for the kernel's RCU; threads that it starts
        meanwhile are born in the group as well and are taken home at the end. On v2 only the whole process can move,
        and what it allocates meanwhile stays charged to the group. Where every controller is v1, cgroup2 is left out.
        """
        moves = [
            (f"{directory}/{file}", f"{hierarchy.path}{own_path(hierarchy)}/{file}")
            for hierarchy, directory in zip(self._layout.used(), self.directories, strict=True)
            if (file := "tasks" if hierarchy.version == 1 else "cgroup.procs")
            and (hierarchy.version == 1 or hierarchy.controllers & set(CONTROLLERS))
        ]
        with ExitStack() as back:
            for there, home in moves:
                cgroupfs.write(there, "0")
                back.callback(_take_home, there, home)
            yield

    def pids(self) -> tuple[int, ...]:
        """Return the host pids of its processes; empty when the group is gone."""
        return cgroupfs.pids_in(self._at("pids"))

    def memory(self) -> MemoryUse:
        """Return what is charged to it now."""
        at = self._at("memory")
        stat = cgroupfs.parse_stat(cgroupfs.read(f"{at}/memory.stat") or "")
        if self._is_v1("memory"):
            keys, files = ("rss", "cache"), ("kmem.usage_in_bytes", "usage_in_bytes", "max_usage_in_bytes")
            kernel = cgroupfs.read_number(f"{at}/memory.{files[0]}")
        else:
            keys, files = ("anon", "file"), ("", "current", "peak")
            kernel = stat.get("kernel")  # Linux 5.18
        current, peak = (cgroupfs.read_number(f"{at}/memory.{file}") for file in files[1:])
        return MemoryUse(stat.get(keys[0]), stat.get(keys[1]), kernel, current, peak)

    def kill(self, deadline_ns: int) -> None:
        """End every process in it, and wait until they are gone. Raises ContainerError (EBUSY) at the deadline."""
        kill_all(self._layout, self.name, self.directories, deadline_ns)

    def remove(self, deadline_ns: int) -> None:
        """Remove its directories; those that are gone do not matter. Raises ContainerError (EBUSY) at the deadline."""
        for directory in self.directories:
            cgroupfs.remove_directory(directory, deadline_ns)


def kill_all(layout: Layout, name: str, directories: Sequence[str], deadline_ns: int) -> None:
    """End every process in the directories: at once where cgroup2 can, else frozen so that none escapes by forking."""
    unified, freezer = layout.unified, layout.of("freezer")
    switch = f"{unified.path}/{name}/cgroup.kill" if unified else ""
    frozen = f"{freezer.path}/{name}/freezer.state" if freezer and freezer.version == 1 else ""
    if switch and os.path.exists(switch):  # Linux 5.14
        cgroupfs.write(switch, "1")
    while pids := {pid for directory in directories for pid in cgroupfs.pids_in(directory)}:
        if time.monotonic_ns() > deadline_ns:
            raise ContainerError("kill", errno.EBUSY, f"{name}: {len(pids)} processes still there")
        with _frozen(frozen):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(cgroupfs.PAUSE_S)


@contextmanager
def _frozen(state: str) -> Iterator[None]:
    if not state or not os.path.exists(state):
        yield
        return
    cgroupfs.write(state, "FROZEN")
    try:
        yield
    finally:
        cgroupfs.write(state, "THAWED")


# -- what a dead run left --------------------------------------------------------------------------------------------


def list_groups(layout: Layout, prefix: str) -> tuple[str, ...]:
    """Return the names of the groups at the roots of all hierarchies that begin with `prefix`, sorted."""
    found = set()
    for hierarchy in layout.hierarchies:
        with os.scandir(hierarchy.path) as entries:
            found |= {entry.name for entry in entries if entry.name.startswith(prefix) and entry.is_dir()}
    return tuple(sorted(found))


def subgroups(layout: Layout, name: str) -> tuple[str, ...]:
    """Return the names of a group and of all below it in any hierarchy, the deepest first."""
    found = set()
    for hierarchy in layout.hierarchies:
        for path, _, _ in os.walk(f"{hierarchy.path}/{name}"):
            found.add(os.path.relpath(path, hierarchy.path))
    return tuple(sorted(found, key=lambda path: (-path.count("/"), path)))


def remove_group(layout: Layout, name: str, deadline_ns: int) -> None:
    """End and remove a group with all below it, in every hierarchy."""
    for group in subgroups(layout, name):
        directories = [f"{hierarchy.path}/{group}" for hierarchy in layout.hierarchies]
        kill_all(layout, group, directories, deadline_ns)
        for directory in directories:
            cgroupfs.remove_directory(directory, deadline_ns)


def members(layout: Layout, name: str) -> tuple[int, ...]:
    """Return the host pids of a group in any hierarchy, sorted."""
    found = {pid for hierarchy in layout.hierarchies for pid in cgroupfs.pids_in(f"{hierarchy.path}/{name}")}
    return tuple(sorted(found))

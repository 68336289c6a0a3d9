"""Groups of processes with limits, on hosts with cgroup v1, v2 or both (hybrid).

A group has a directory of its own in every hierarchy that is needed. One of the library, `Group(layout, NAME)`, lies at
the roots of those of the controllers memory, cpu and pids, and of the cgroup2 mount if there is one, since only it has
`cgroup.kill` and CLONE_INTO_CGROUP: it can be found again by name alone. One of an OCI container, `Group.at(layout,
cgroupsPath)`, is in all hierarchies, wherever its path says. `cgroup_files.py` knows which files hold which resource.

Source: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from harness.container import cgroup_freeze, cgroupfs
from harness.container.cgroup_layout import (
    CONTROLLERS,
    Hierarchy,
    Layout,
    Mode,
    checked_name,
    detect,
    directories_at,
    hierarchy_at,
    own_path,
)
from harness.container.cgroup_leftovers import kill_all, list_groups, members, remove_group, subgroups
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from harness.container.cgroup_stats import Stats
    from harness.container.plan import Joins
    from harness.container.resources import Resources

__all__ = [
    "CONTROLLERS", "Group", "Hierarchy", "Layout", "Limits", "MemoryUse", "Mode", "detect", "hierarchy_at",
    "kill_all", "list_groups", "members", "own_path", "prepare_parent", "remove_group", "remove_parent", "subgroups",
]  # fmt: skip

JoinMethod: TypeAlias = 'Literal["fast", "procs"]'
_PERIOD_US = 100_000


class Limits(Frozen):
    """What a group may use; memory without swap."""

    memory_bytes: int
    cpus: float
    pids: int


class MemoryUse(Frozen):
    """What is charged to a group, in bytes; None where this cgroup version does not tell."""

    anon_bytes: int | None
    file_bytes: int | None
    kernel_bytes: int | None
    current_bytes: int | None
    peak_bytes: int | None
    shmem_bytes: int | None = None
    """The part of `file_bytes` that is tmpfs and other shared memory."""


def _take_home(there: str, home: str) -> None:
    """Move the calling thread (v1) or process (v2) back, and every other thread of this process that is there."""
    cgroupfs.write(home, "0")
    if there.endswith("/tasks"):
        for tid in (cgroupfs.read(there) or "").split():
            if os.path.exists(f"/proc/self/task/{tid}"):
                _move_unless_ended(tid, home)


def _move_unless_ended(tid: str, home: str) -> None:
    """A thread may end between the look and the move."""
    try:
        cgroupfs.write(home, tid)
    except ContainerError as error:
        if error.errno != errno.ESRCH:
            raise


def prepare_parent(layout: Layout, parent: str) -> None:
    """Make the group that holds others: not timed. Raises ContainerError (EBUSY where v2 has processes in the way)."""
    try:
        for hierarchy in layout.used():
            path = f"{hierarchy.path}/{parent}"
            cgroupfs.make_directory(path)
            if hierarchy.version == 2:
                for directory in (hierarchy.path, path):
                    cgroupfs.hand_down(directory, hierarchy.controllers & set(CONTROLLERS))
    except ContainerError:
        remove_parent(layout, parent)
        raise


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
    """A group of one layout. `name` is its path below the roots, such as `harness-1a2b3c4d/b00-vm`.

    `directories` are its own in `trees`, in their order; `made` those that `create` made, the parents before them.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        checked_name(name)
        trees = layout.used()
        self._set_up(layout, name, trees, tuple(f"{tree.path}/{name}" for tree in trees))

    def _set_up(self, layout: Layout, name: str, trees: tuple[Hierarchy, ...], directories: tuple[str, ...]) -> None:
        self._layout = layout
        self.name = name
        self.trees = trees
        self.directories = directories
        self.made: tuple[str, ...] = ()
        self.join_method: JoinMethod = "fast"
        self._of = {tree.path: directory for tree, directory in zip(trees, directories, strict=True)}

    @classmethod
    def at(cls, layout: Layout, cgroups_path: str) -> Group:
        """Return the group of a `linux.cgroupsPath`, in every hierarchy. Raises ContainerError for a bad path.

        A relative path begins at the caller's own group, so that only `restored` finds it again from elsewhere.
        """
        trees = layout.full()
        return cls._with(layout, trees, directories_at(trees, cgroups_path))

    @classmethod
    def restored(cls, layout: Layout, directories: Sequence[str], made: Sequence[str]) -> Group:
        """Return a group by what another process recorded: its `directories` and `made`.

        Hierarchies that are not mounted any more are left out. Raises ContainerError where none is left.
        """
        found = {}
        for tree in layout.full():
            inside = [path for path in directories if path.startswith(f"{tree.path}/")]
            if inside:
                found[tree] = inside[0]
        if not found:
            raise ContainerError("cgroup", 0, f"{', '.join(directories)}: in no cgroup tree of this host")
        group = cls._with(layout, tuple(found), tuple(found.values()))
        group.made = tuple(made)
        return group

    @classmethod
    def _with(cls, layout: Layout, trees: tuple[Hierarchy, ...], directories: tuple[str, ...]) -> Group:
        if not trees:
            raise ContainerError("cgroup", 0, "no cgroup tree is mounted")
        group = cls.__new__(cls)
        name = directories[0].removeprefix(f"{trees[0].path}/")
        group._set_up(layout, name, trees, directories)
        return group

    def beside(self, pid: int) -> Group:
        """Return the group that one of its processes is in, itself or one below: where another one may join.

        A container that made groups of v2 below its own and moved into one can take no process in its own any more
        (EBUSY). Where the process is elsewhere, the group itself is taken. Raises ContainerError.
        """
        directories = []
        for tree, directory in zip(self.trees, self.directories, strict=True):
            there = f"{tree.path}{own_path(tree, pid)}"
            directories.append(there if there.startswith(f"{directory}/") else directory)
        return self._with(self._layout, self.trees, tuple(directories))

    def _at(self, controller: str) -> str:
        directory = self._directory(controller)
        if directory is None:
            raise ContainerError("cgroup", 0, f"{controller}: no such controller here")
        return directory

    def _directory(self, controller: str) -> str | None:
        """Return where a controller ("cgroup": the cgroup2 tree itself) has this group, None where it has not."""
        tree = self._layout.unified if controller == "cgroup" else self._layout.of(controller)
        return None if tree is None else self._of.get(tree.path)

    @property
    def switches(self) -> cgroup_freeze.Switches:
        freezer = self._directory("freezer") if self._is_v1("freezer") else None
        return cgroup_freeze.Switches(self._directory("cgroup"), freezer)

    def obstacle(self) -> ContainerError | None:
        """Return why this group cannot be made by this process (EACCES, EROFS, ENOENT), None where it can.

        It is for a caller that may go on without a group where no limit was asked for, as without privileges.
        """
        from harness.container import cgroup_setup

        return cgroup_setup.obstacle(self.directories)

    def create(self, limits: Limits | Resources | None, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make its directories and set its limits (None: none); on failure nothing is left.

        `parents` makes missing parents too, and readies them (controllers of v2, CPUs of a v1 cpuset); without it the
        parent must be ready. `exist_ok` takes directories that are there if no process is in them and they are not
        frozen. Raises ContainerError.
        """
        with ExitStack() as undo:
            if parents or exist_ok or not (limits is None or isinstance(limits, Limits)):
                made = self._create_full(limits, undo, parents=parents, exist_ok=exist_ok)
            else:
                made = self.directories
                for directory in self.directories:
                    cgroupfs.make_directory(directory, exist_ok=False)
                    undo.callback(os.rmdir, directory)
            if isinstance(limits, Limits):
                self._set_memory(limits.memory_bytes)
                self._set_cpu(limits.cpus)
                cgroupfs.write(f"{self._at('pids')}/pids.max", str(limits.pids))
            undo.pop_all()
        self.made = made

    def _create_full(
        self, limits: Limits | Resources | None, undo: ExitStack, *, parents: bool, exist_ok: bool
    ) -> tuple[str, ...]:
        """Make the directories and set Resources; return what was made."""
        from harness.container import cgroup_setup

        resources = None if isinstance(limits, Limits) else limits
        needed = cgroup_setup.needed(resources, self._layout)
        places = zip(self.trees, self.directories, strict=True)
        made = cgroup_setup.make(places, needed, undo, parents=parents, exist_ok=exist_ok)
        cgroup_setup.refuse_frozen(self.switches)
        if resources is not None:
            cgroup_setup.apply(resources, self._layout, self._directory)
        return tuple(made)

    def update(self, resources: Resources) -> None:
        """Change the limits of a live group. Raises ContainerError; what was written before the failure stays."""
        from harness.container import cgroup_setup

        cgroup_setup.update(resources, self._layout, self._directory)

    def _is_v1(self, controller: str) -> bool:
        hierarchy = self._layout.of(controller)
        return hierarchy is not None and hierarchy.version == 1

    def _set_memory(self, limit_bytes: int) -> None:
        at = self._at("memory")
        if not self._is_v1("memory"):
            cgroupfs.write(f"{at}/memory.max", str(limit_bytes))
            cgroupfs.write_where_present(f"{at}/memory.swap.max", "0")  # absent where the kernel has no swap
            return
        cgroupfs.write(f"{at}/memory.limit_in_bytes", str(limit_bytes))
        if not cgroupfs.write_where_present(f"{at}/memory.memsw.limit_in_bytes", str(limit_bytes)):  # swapaccount=0
            cgroupfs.write(f"{at}/memory.swappiness", "0")

    def _set_cpu(self, cpus: float) -> None:
        quota_us = max(1000, round(cpus * _PERIOD_US))  # the kernel's own minimum is 1 ms
        if self._is_v1("cpu"):
            cgroupfs.write(f"{self._at('cpu')}/cpu.cfs_period_us", str(_PERIOD_US))
            cgroupfs.write(f"{self._at('cpu')}/cpu.cfs_quota_us", str(quota_us))
        else:
            cgroupfs.write(f"{self._at('cpu')}/cpu.max", f"{quota_us} {_PERIOD_US}")

    def joins(self, method: JoinMethod | None = None) -> Joins:
        """How the process of a plan gets in by the fds of `join_fds(method)`; None: by the group's own `join_method`.

        "fast" writes to `tasks` of v1, which waits for no RCU grace period, and is cloned into cgroup2; "procs" writes
        to every `cgroup.procs` instead, as other runtimes do.
        """
        from harness.container.plan import Joins

        if (method or self.join_method) == "procs":
            return Joins(len(self.trees), unified=False)
        return Joins(sum(tree.version == 1 for tree in self.trees), self._layout.unified is not None)

    @contextmanager
    def join_fds(self, method: JoinMethod | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the fds that a plan with these `joins` needs, in its order."""
        method = method or self.join_method
        fds: list[int] = []
        try:
            for hierarchy, directory in zip(self.trees, self.directories, strict=True):
                if method == "procs":
                    path, flags = f"{directory}/cgroup.procs", os.O_WRONLY
                elif hierarchy.version == 1:
                    path, flags = f"{directory}/tasks", os.O_WRONLY
                else:
                    path, flags = directory, os.O_RDONLY
                fds.append(cgroupfs.open_fd(path, flags))
            yield tuple(fds)
        finally:
            for fd in fds:
                os.close(fd)

    def join_pid(self, pid: int) -> None:
        """Move a process with all its threads in, by `cgroup.procs` of every hierarchy: an RCU grace period each.

        Raises ContainerError (EOPNOTSUPP for a group of threads in another's domain, see cgroup-v2.rst, "Threads").
        """
        for directory in self.directories:
            cgroupfs.write(f"{directory}/cgroup.procs", str(pid))

    @contextmanager
    def caller_inside(self) -> Iterator[None]:
        """Have the calling thread in the group for the while, so that what it starts is born there.

        On v1 a thread can move alone, and into `tasks` without waiting for the kernel's RCU; threads that it starts
        meanwhile are born in the group as well and are taken home at the end. On v2 only the whole process can move,
        and what it allocates meanwhile stays charged to the group. Where every controller is v1, cgroup2 is left out.
        """
        moves = [
            (f"{directory}/{file}", f"{hierarchy.path}{own_path(hierarchy)}/{file}")
            for hierarchy, directory in zip(self.trees, self.directories, strict=True)
            if (file := "tasks" if hierarchy.version == 1 else "cgroup.procs")
            and (hierarchy.version == 1 or hierarchy.controllers & set(CONTROLLERS))
        ]
        with ExitStack() as back:
            for there, home in moves:
                cgroupfs.write(there, "0")
                back.callback(_take_home, there, home)
            yield

    def pids(self) -> tuple[int, ...]:
        """Return the host pids of its processes, those of groups below too; empty when the group is gone."""
        return cgroupfs.pids_below(self._at("pids") if self._directory("pids") else self.directories[0])

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
        return MemoryUse(stat.get(keys[0]), stat.get(keys[1]), kernel, current, peak, stat.get("shmem"))

    def stats(self) -> Stats:
        """Return the counters of the group and of all below it."""
        from harness.container import cgroup_stats

        def place(controller: str) -> tuple[str, int] | None:
            tree, directory = self._layout.of(controller), self._directory(controller)
            return None if tree is None or directory is None else (directory, tree.version)

        return cgroup_stats.read(cgroup_stats.Places(place, self._directory("cgroup")))

    def freeze(self, deadline_ns: int) -> None:
        """Stop its processes, those of groups below too. Raises ContainerError; at the deadline (EBUSY) all run on."""
        cgroup_freeze.freeze(self.switches, deadline_ns)

    def thaw(self) -> None:
        """Let its processes run again."""
        cgroup_freeze.thaw(self.switches)

    def is_frozen(self) -> bool:
        return cgroup_freeze.is_frozen(self.switches)

    def kill(self, deadline_ns: int) -> None:
        """End every process in it and below, and wait for it. Raises ContainerError (EBUSY) at the deadline."""
        cgroup_freeze.kill(self.switches, self.directories, deadline_ns)

    def try_remove(self) -> bool:
        """Remove its directories until one is not empty (of processes or groups); return whether all are gone.

        What ends a group can begin with this: most often its last process is gone already, and nothing is to be killed.
        """
        return all(cgroupfs.try_remove(directory) for directory in self.directories)

    def remove(self, deadline_ns: int, *, parents: bool = False) -> None:
        """Remove its directories and all below; those that are gone do not matter.

        `parents` removes those that `create` made as well, unless something is in them. Raises ContainerError (EBUSY)
        at the deadline.
        """
        for directory in self.directories:
            cgroupfs.remove_tree(directory, deadline_ns)
        if parents:
            for directory in reversed(self.made):
                cgroupfs.try_remove(directory)

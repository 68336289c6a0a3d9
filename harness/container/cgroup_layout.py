"""Which cgroup trees this host has: cgroup v1, v2, or both (hybrid).

Source: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import os

from harness.container import cgroupfs, mountinfo, syscalls
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from harness.container.plan import Joins

Mode: TypeAlias = 'Literal["v1", "v2", "hybrid"]'

CONTROLLERS = ("memory", "cpu", "pids")
_KNOWN_V1 = frozenset(
    "blkio cpu cpuacct cpuset devices freezer hugetlb memory net_cls net_prio perf_event pids rdma".split()
)


class Hierarchy(Frozen):
    """One mounted cgroup tree."""

    path: str
    version: Literal[1, 2]
    controllers: frozenset[str]


class Layout:
    """The cgroup trees of this host."""

    __slots__ = ("_used", "hierarchies")

    def __init__(self, hierarchies: tuple[Hierarchy, ...]) -> None:
        self.hierarchies = hierarchies
        self._used = self._find_used()  # once: every group of a library's start asks

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
        return self._used

    def _find_used(self) -> tuple[Hierarchy, ...]:
        wanted = CONTROLLERS if self.unified else (*CONTROLLERS, "freezer")
        found = [hierarchy for name in wanted if (hierarchy := self.of(name)) is not None]
        found += [self.unified] if self.unified else []
        return tuple(sorted(dict.fromkeys(found), key=lambda hierarchy: hierarchy.version))

    def full(self) -> tuple[Hierarchy, ...]:
        """Return every hierarchy that limits or counts something, v1 first: where an OCI container has a directory."""
        found = [tree for tree in self.hierarchies if tree.version == 2 or tree.controllers]
        return tuple(sorted(found, key=lambda hierarchy: hierarchy.version))

    @property
    def joins(self) -> Joins:
        """How a process of a plan gets into a group of this layout."""
        from harness.container.plan import Joins  # late: who makes no plan need not pay for it

        return Joins(sum(hierarchy.version == 1 for hierarchy in self.used()), self.unified is not None)


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


def own_path(hierarchy: Hierarchy, who: int | str = "thread-self") -> str:
    """Return where a process (the calling thread) is in a hierarchy: a path below its root, empty for the root itself.

    Raises ContainerError for a hierarchy, or a process, that is not there.
    """
    for line in (cgroupfs.read(f"/proc/{who}/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        controllers = frozenset(names.split(",")) & _KNOWN_V1
        if controllers == hierarchy.controllers if hierarchy.version == 1 else not names:
            return path.rstrip("/")
    raise ContainerError("cgroup", 0, f"{hierarchy.path}: /proc/{who}/cgroup does not name it")


def checked_name(path: str) -> str:
    """Return a group's path as it is. Raises ContainerError for empty, `.` and `..` parts."""
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise ContainerError("cgroup", 0, f"{path}: not a group's name")
    return path


def directories_at(trees: tuple[Hierarchy, ...], cgroups_path: str) -> tuple[str, ...]:
    """Return the directory of `linux.cgroupsPath` in each tree.

    An absolute path begins at the roots of the mounts, a relative one at the caller's own group: on v2 at the parent of
    that, since a group with processes hands no controllers down (as runc does it). Raises ContainerError.
    """
    if cgroups_path.startswith("/"):
        name = checked_name(cgroups_path[1:])
        return tuple(f"{tree.path}/{name}" for tree in trees)
    name = checked_name(cgroups_path)
    homes = [own_path(tree) for tree in trees]
    return tuple(
        f"{tree.path}{home if tree.version == 1 else home.rpartition('/')[0]}/{name}"
        for tree, home in zip(trees, homes, strict=True)
    )

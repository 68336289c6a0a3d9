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

from harness.container import syscalls
from harness.container.errors import ContainerError
from harness.container.plan import Joins

Mode = Literal["v1", "v2", "hybrid"]

CONTROLLERS = ("memory", "cpu", "pids")
_KNOWN_V1 = frozenset(
    "blkio cpu cpuacct cpuset devices freezer hugetlb memory net_cls net_prio perf_event pids rdma".split()
)
_PERIOD_US = 100_000
_PAUSE_S = 0.0005


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
        """None where nothing is mounted."""
        versions = {hierarchy.version for hierarchy in self.hierarchies}
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


def _read(path: str) -> str | None:
    """Return a file's text, or None where it is not there (or its group is going away)."""
    try:
        with open(path, encoding="ascii") as file:  # pathlib costs more here than the read
            return file.read()
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP}:
            return None
        raise ContainerError("cgroup", error.errno or 0, path) from error


def _write(path: str, value: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise ContainerError("cgroup", error.errno or 0, f"{path}: {value!r}") from error


# -- what this host has ----------------------------------------------------------------------------------------------


def parse_mountinfo(text: str) -> list[tuple[str, str, frozenset[str]]]:
    """Return (mount point, type, options of the super block) of the cgroup mounts in a /proc/PID/mountinfo."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        words = after.split(" ")
        if words[0] in {"cgroup", "cgroup2"}:
            point = before.split(" ")[4].encode().decode("unicode_escape")  # spaces are written as \040
            found.append((point, words[0], frozenset(words[2].split(","))))
    return found


def detect() -> Layout:
    """Return the cgroup trees that are mounted here.

    Each mount point is asked for its file system (statfs): a tree may be hidden by a later mount over it, and on a
    tmpfs of that name a mkdir succeeds and limits nothing.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = parse_mountinfo(file.read())
    hierarchies: dict[tuple[int, frozenset[str]], Hierarchy] = {}
    for point, kind, options in mounts:
        magic = syscalls.CGROUP_SUPER_MAGIC if kind == "cgroup" else syscalls.CGROUP2_SUPER_MAGIC
        if not os.path.isdir(point) or syscalls.fs_magic(point) != magic:
            continue
        if kind == "cgroup2":
            found = Hierarchy(point, 2, frozenset((_read(f"{point}/cgroup.controllers") or "").split()))
        elif options & _KNOWN_V1:
            found = Hierarchy(point, 1, options & _KNOWN_V1)
        else:
            continue  # a tree without a controller, such as name=systemd
        hierarchies.setdefault((found.version, found.controllers if found.version == 1 else frozenset()), found)
    return Layout(tuple(hierarchies.values()))


def prepare_parent(layout: Layout, parent: str) -> None:
    """Make the group that holds others: not timed. Raises ContainerError (EBUSY where v2 has processes in the way)."""
    for hierarchy in layout.used():
        path = f"{hierarchy.path}/{parent}"
        _mkdir(path)
        if hierarchy.version == 2:
            wanted = sorted(hierarchy.controllers & set(CONTROLLERS))
            for directory in (hierarchy.path, path):
                enabled = (_read(f"{directory}/cgroup.subtree_control") or "").split()
                for name in wanted:
                    if name not in enabled:
                        _write(f"{directory}/cgroup.subtree_control", f"+{name}")


def _mkdir(path: str, *, exist_ok: bool = True) -> None:
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        if not (exist_ok and error.errno == errno.EEXIST):
            raise ContainerError("cgroup", error.errno or 0, path) from error


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

    def create(self, limits: Limits) -> None:
        """Make its directories and set its limits; on failure nothing is left. Its parent must be there."""
        with ExitStack() as undo:
            for directory in self.directories:
                _mkdir(directory, exist_ok=False)
                undo.callback(os.rmdir, directory)
            self._set_memory(limits.memory_bytes)
            self._set_cpu(limits.cpus)
            _write(f"{self._at('pids')}/pids.max", str(limits.pids))
            undo.pop_all()

    def _is_v1(self, controller: str) -> bool:
        hierarchy = self._layout.of(controller)
        return hierarchy is not None and hierarchy.version == 1

    def _set_memory(self, limit_bytes: int) -> None:
        at = self._at("memory")
        if not self._is_v1("memory"):
            _write(f"{at}/memory.max", str(limit_bytes))
            if os.path.exists(f"{at}/memory.swap.max"):  # absent where the kernel has no swap
                _write(f"{at}/memory.swap.max", "0")
            return
        _write(f"{at}/memory.limit_in_bytes", str(limit_bytes))
        if os.path.exists(f"{at}/memory.memsw.limit_in_bytes"):  # absent with swapaccount=0
            _write(f"{at}/memory.memsw.limit_in_bytes", str(limit_bytes))
        else:
            _write(f"{at}/memory.swappiness", "0")

    def _set_cpu(self, cpus: float) -> None:
        quota_us = max(1000, round(cpus * _PERIOD_US))  # the kernel's own minimum is 1 ms
        if self._is_v1("cpu"):
            _write(f"{self._at('cpu')}/cpu.cfs_period_us", str(_PERIOD_US))
            _write(f"{self._at('cpu')}/cpu.cfs_quota_us", str(quota_us))
        else:
            _write(f"{self._at('cpu')}/cpu.max", f"{quota_us} {_PERIOD_US}")

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

    def pids(self) -> tuple[int, ...]:
        """Return the host pids of its processes; empty when the group is gone."""
        return pids_in(self._at("pids"))

    def memory(self) -> MemoryUse:
        """Return what is charged to it now."""
        at = self._at("memory")
        stat = parse_stat(_read(f"{at}/memory.stat") or "")
        if self._is_v1("memory"):
            keys, files = ("rss", "cache"), ("kmem.usage_in_bytes", "usage_in_bytes", "max_usage_in_bytes")
            kernel = _number(f"{at}/memory.{files[0]}")
        else:
            keys, files = ("anon", "file"), ("", "current", "peak")
            kernel = stat.get("kernel")  # Linux 5.18
        current, peak = (_number(f"{at}/memory.{file}") for file in files[1:])
        return MemoryUse(stat.get(keys[0]), stat.get(keys[1]), kernel, current, peak)

    def kill(self, deadline_ns: int) -> None:
        """End every process in it, and wait until they are gone. Raises ContainerError (EBUSY) at the deadline."""
        kill_all(self._layout, self.name, self.directories, deadline_ns)

    def remove(self, deadline_ns: int) -> None:
        """Remove its directories; those that are gone do not matter. Raises ContainerError (EBUSY) at the deadline."""
        for directory in self.directories:
            remove_directory(directory, deadline_ns)


def parse_stat(text: str) -> dict[str, int]:
    """Return the `key value` lines of a memory.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _number(path: str) -> int | None:
    text = _read(path)
    return None if text is None else int(text)


def pids_in(directory: str) -> tuple[int, ...]:
    """Return the pids in one directory of a tree (0: a process of another pid namespace, left out)."""
    pids = (_read(f"{directory}/cgroup.procs") or "").split()
    return tuple(int(pid) for pid in pids if pid != "0")


def kill_all(layout: Layout, name: str, directories: Sequence[str], deadline_ns: int) -> None:
    """End every process in the directories: at once where cgroup2 can, else frozen so that none escapes by forking."""
    unified, freezer = layout.unified, layout.of("freezer")
    switch = f"{unified.path}/{name}/cgroup.kill" if unified else ""
    frozen = f"{freezer.path}/{name}/freezer.state" if freezer and freezer.version == 1 else ""
    if switch and os.path.exists(switch):  # Linux 5.14
        _write(switch, "1")
    while pids := {pid for directory in directories for pid in pids_in(directory)}:
        if time.monotonic_ns() > deadline_ns:
            raise ContainerError("kill", errno.EBUSY, f"{name}: {len(pids)} processes still there")
        with _frozen(frozen):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


@contextmanager
def _frozen(state: str) -> Iterator[None]:
    if not state or not os.path.exists(state):
        yield
        return
    _write(state, "FROZEN")
    try:
        yield
    finally:
        _write(state, "THAWED")


def remove_directory(directory: str, deadline_ns: int) -> None:
    """rmdir, again while the last process is still on its way out (EBUSY)."""
    while True:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic_ns() > deadline_ns:
                raise ContainerError("cgroup", error.errno or 0, directory) from error
            time.sleep(_PAUSE_S)
        else:
            return


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
            remove_directory(directory, deadline_ns)

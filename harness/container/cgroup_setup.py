"""Make a group's directories and write its resources: the effects behind `Group.create` and `Group.update`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from harness.container import cgroup_files, cgroup_freeze, cgroupfs
from harness.container.cgroup_layout import Hierarchy, Layout
from harness.container.cgroup_write import Current, Write
from harness.container.errors import ContainerError
from harness.container.resources import Resources

_ATTEMPTS = 20
# What is counted even where nothing is limited.
_COUNTED = frozenset({"memory", "cpu", "cpuset", "io", "pids"})
_V1_NO_LIMIT_FROM = (1 << 63) - (1 << 16)

Place = Callable[[str], str | None]
"""Where a controller ("cgroup": the cgroup2 tree itself) has the group; None where it has not."""


# -- directories -----------------------------------------------------------------------------------------------------


def needed(resources: Resources | None, layout: Layout) -> frozenset[str]:
    """Return the controllers that the resources need in the cgroup2 tree. Raises ContainerError."""
    return frozenset() if resources is None else cgroup_files.controllers(resources, layout)


def make(
    places: Iterable[tuple[Hierarchy, str]],
    controllers: frozenset[str],
    undo: ExitStack,
    *,
    parents: bool,
    exist_ok: bool,
) -> list[str]:
    """Make the directories; return those that were made, parents first. What is there already must be empty.

    Raises ContainerError. `undo` removes again what was made.
    """
    made = []
    for tree, directory in places:
        if parents:
            new = _make_with_parents(tree, directory, controllers, undo, exist_ok=exist_ok)
        else:
            new = _make_one(directory, undo, exist_ok=exist_ok)
        made += new
        if directory not in new and cgroupfs.is_occupied(directory):
            raise ContainerError("cgroup", errno.EBUSY, f"{directory}: there already, with processes in it")
        if "cpuset" in tree.controllers and tree.version == 1:
            _copy_cpuset(tree, directory)
    return made


def _make_with_parents(
    tree: Hierarchy, directory: str, controllers: frozenset[str], undo: ExitStack, *, exist_ok: bool
) -> list[str]:
    """Make a directory and those above it; again where another's end takes one of these away meanwhile (ENOENT)."""
    made: list[str] = []
    for attempt in range(_ATTEMPTS):
        try:
            for path in _missing_parents(tree, directory):
                made += _make_one(path, undo, exist_ok=True)
            if tree.version == 2:
                _ready_parents(tree, directory, controllers)
            return made + _make_one(directory, undo, exist_ok=exist_ok)
        except ContainerError as error:
            if error.errno != errno.ENOENT or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def planned(places: Iterable[tuple[Hierarchy, str]]) -> tuple[list[str], list[str]]:
    """Return the groups that are not there yet, and what `make` would make with `parents`: those with their parents."""
    missing = [(tree, directory) for tree, directory in places if not os.path.isdir(directory)]
    made = [path for tree, directory in missing for path in (*_missing_parents(tree, directory), directory)]
    return [directory for _, directory in missing], made


def _make_one(directory: str, undo: ExitStack, *, exist_ok: bool) -> list[str]:
    try:
        cgroupfs.make_directory(directory, exist_ok=False)
    except ContainerError as error:
        if exist_ok and error.errno == errno.EEXIST:
            return []
        raise
    undo.callback(cgroupfs.try_remove, directory)
    return [directory]


def _above(tree: Hierarchy, directory: str) -> list[str]:
    """Return the directories from right below the tree's root to the one that holds `directory`."""
    parts = directory.removeprefix(f"{tree.path}/").split("/")[:-1]
    return ["/".join((tree.path, *parts[: count + 1])) for count in range(len(parts))]


def _missing_parents(tree: Hierarchy, directory: str) -> list[str]:
    return [path for path in _above(tree, directory) if not os.path.isdir(path)]


def _ready_parents(tree: Hierarchy, directory: str, controllers: frozenset[str]) -> None:
    """Have the controllers handed down to a group of v2. On a hybrid host none is but what a limit needs."""
    counted = tree.controllers & _COUNTED
    for path in (tree.path, *_above(tree, directory)):
        try:
            cgroupfs.hand_down(path, controllers | counted)
        except ContainerError:
            cgroupfs.hand_down(path, controllers)  # a counter less is no failure; a limit less is


def _copy_cpuset(tree: Hierarchy, directory: str) -> None:
    """Give every group on the way the CPUs and memory nodes of its parent if it has none: else no process can join."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        value = ""
        for path in (tree.path, *_above(tree, directory), directory):
            own = (cgroupfs.read(f"{path}/{file}") or "").strip()
            if not own and value:
                cgroupfs.write(f"{path}/{file}", value)
            value = own or value


def refuse_frozen(switches: cgroup_freeze.Switches) -> None:
    """Raise ContainerError for a group that is stopped: what is started in it would never run."""
    if cgroup_freeze.is_frozen(switches):
        raise ContainerError("cgroup", errno.EBUSY, f"{switches.unified or switches.freezer}: is frozen")


def obstacle(directories: Sequence[str]) -> ContainerError | None:
    """Return why the directories cannot be made by this process, None where they can."""
    for directory in directories:
        above = directory
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        if os.statvfs(above).f_flag & os.ST_RDONLY:
            return ContainerError("cgroup", errno.EROFS, above)
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            return ContainerError("cgroup", errno.EACCES, above)
    return None


# -- resources -------------------------------------------------------------------------------------------------------


def apply(resources: Resources, layout: Layout, place: Place) -> None:
    """Write the resources of a new group. Raises ContainerError."""
    _carry_out(cgroup_files.writes(resources, layout), place)
    _filter_devices(resources, layout, place)


def update(resources: Resources, layout: Layout, place: Place) -> None:
    """Change the resources of a live group. Raises ContainerError."""
    if resources.memory.check_before_update:
        _refuse_less_than_used(resources.memory.limit_bytes, place)
    planned = cgroup_files.writes(resources, layout, _current(layout, place))
    unified, directory = layout.unified, place("cgroup")
    if unified is not None and directory is not None:
        for path in (unified.path, *_above(unified, directory)):
            cgroupfs.hand_down(path, cgroup_files.controllers(resources, layout))
    _carry_out(planned, place)
    _filter_devices(resources, layout, place)


def _carry_out(planned: Sequence[Write], place: Place) -> None:
    for write in planned:
        directory = place(write.controller)
        if directory is None:
            raise ContainerError("cgroup", 0, f"{write.resource}: the group is not in the tree of {write.controller}")
        try:
            _write(write, directory)
        except ContainerError as error:
            raise ContainerError("cgroup", error.errno, f"{write.resource}: {error.detail}") from error


def _write(write: Write, directory: str) -> None:
    try:
        cgroupfs.write(f"{directory}/{write.file}", write.value)
    except ContainerError as error:
        if error.errno != errno.ENOENT or (write.instead is None and not write.optional):
            raise
        if write.instead is not None:
            file, value = write.instead
            cgroupfs.write(f"{directory}/{file}", value)


def _filter_devices(resources: Resources, layout: Layout, place: Place) -> None:
    """On v2 device rules are a program of the group."""
    directory = place("cgroup")
    if resources.devices and layout.of("devices") is None and directory is not None:
        from harness.container import devices_bpf

        devices_bpf.install(directory, resources.devices)


def _refuse_less_than_used(limit_bytes: int | None, place: Place) -> None:
    at = place("memory")
    if at is None or limit_bytes is None or limit_bytes <= 0:
        return
    used = cgroupfs.read_number(f"{at}/memory.usage_in_bytes") or cgroupfs.read_number(f"{at}/memory.current")
    if used is None:
        raise ContainerError("cgroup", 0, f"memory.checkBeforeUpdate: {at} does not say what is used")
    if limit_bytes < used:
        raise ContainerError("cgroup", 0, f"memory.limit: {limit_bytes}: less than the {used} bytes in use")


def _current(layout: Layout, place: Place) -> Current:
    memory, cpu, devices = place("memory"), place("cpu"), place("devices")
    memsw = cgroupfs.read_number(f"{memory}/memory.memsw.limit_in_bytes") if memory else None
    quota = (cgroupfs.read(f"{cpu}/cpu.max") or "").split() if cpu else []
    listed = (cgroupfs.read(f"{devices}/devices.list") or "").splitlines() if devices else []
    return Current(
        memsw_bytes=-1 if memsw is not None and memsw >= _V1_NO_LIMIT_FROM else memsw,
        quota=quota[0] if quota else "max",
        devices=frozenset(listed),
    )

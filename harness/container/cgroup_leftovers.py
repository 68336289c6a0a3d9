"""Groups found by name alone, as a run that died left them: at the roots of all hierarchies, with all below them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.container import cgroup_freeze, cgroupfs
from harness.container.cgroup_layout import Layout


def kill_all(layout: Layout, name: str, directories: Sequence[str], deadline_ns: int) -> None:
    """End every process in the directories of the group of that name at the roots. Raises ContainerError (EBUSY)."""
    unified, freezer = layout.unified, layout.of("freezer")
    switches = cgroup_freeze.Switches(
        f"{unified.path}/{name}" if unified else None,
        f"{freezer.path}/{name}" if freezer and freezer.version == 1 else None,
    )
    cgroup_freeze.kill(switches, directories, deadline_ns)


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

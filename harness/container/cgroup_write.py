"""One write to a file of a cgroup, as data, and what decides its order."""

from __future__ import annotations

from collections.abc import Sequence

from harness.container.cgroup_layout import Layout
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

Version: TypeAlias = "Literal[1, 2]"

NO_LIMIT = (None, 0, -1)


class Write(Frozen):
    """One write to one file of the group in the tree of a controller ("cgroup": the cgroup2 tree itself).

    `resource` is the field that asks for it. Where `file` is not there, `instead` (file, value) is written if given,
    and nothing if the write is `optional`.
    """

    controller: str
    file: str
    value: str
    resource: str
    optional: bool = False
    instead: tuple[str, str] | None = None


class Current(Frozen):
    """What a live group has now, as far as the order of writes depends on it.

    `memsw_bytes` is -1 for no limit; `quota` a word of cpu.max; `devices` the lines of devices.list, which are the
    exceptions of a group that refuses the rest, and one for all devices in a group that allows the rest.
    """

    memsw_bytes: int | None = None
    quota: str = "max"
    devices: frozenset[str] = frozenset()


def version_of(layout: Layout, controller: str, asked: Sequence[tuple[str, bool]]) -> Version | None:
    """Return the version of a controller's tree, None where it is missing and nothing is asked of it.

    `asked` are fields, and whether they ask for more than "no limit". Raises ContainerError.
    """
    tree = layout.of(controller)
    if tree is not None:
        return tree.version
    for resource, wanted in asked:
        if wanted:
            raise ContainerError("cgroup", 0, f"{resource}: this host has no {controller} controller")
    return None


def only_v1(resource: str) -> ContainerError:
    return ContainerError("cgroup", 0, f"{resource}: cgroup v2 has no such thing")

"""Map the ids of a new user namespace, from outside: user_namespaces(7)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.container.errors import ContainerError
from harness.container.plan import denies_setgroups, id_ranges
from harness.container.plan_root import map_text
from harness.container.spec import ContainerSpec, IdMap


def write(pid: int, spec: ContainerSpec, *, rootless: bool) -> None:
    """Write the maps of a process's user namespace. Raises ContainerError, with what helps where a program is missing.

    An unprivileged caller may map its own id alone; newuidmap(1) and newgidmap(1) map what /etc/subuid grants.
    """
    if rootless and id_ranges(spec):
        _run("newgidmap", pid, spec.gid_maps)
        _run("newuidmap", pid, spec.uid_maps)
        return
    if denies_setgroups(spec, rootless=rootless):
        _write(pid, "setgroups", "deny")
    _write(pid, "gid_map", map_text(spec.gid_maps))
    _write(pid, "uid_map", map_text(spec.uid_maps))


def _write(pid: int, name: str, content: str) -> None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode())  # by one write: the kernel takes a map once
        finally:
            os.close(fd)
    except OSError as error:
        raise ContainerError("user namespace", error.errno or 0, f"{name}: {content.strip()!r}") from error


def _run(name: str, pid: int, maps: Sequence[IdMap]) -> None:
    import subprocess

    argv = [name, str(pid), *map_text(maps).split()]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ContainerError("user namespace", 0, f"{name} is missing: ranges of ids need it (apt: uidmap)") from error
    if done.returncode:
        raise ContainerError("user namespace", 0, done.stderr.strip())

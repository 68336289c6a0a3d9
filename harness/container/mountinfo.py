"""What is mounted: /proc/self/mountinfo as data (proc(5))."""

from __future__ import annotations

import os
import re

from harness.container.frozen import Frozen

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(Frozen):
    """One line: where it is, which type, the options of its super block."""

    point: str
    fs_type: str
    options: frozenset[str]


def parse(text: str) -> tuple[Mount, ...]:
    """Return the mounts of a mountinfo, in its order: what lies over another comes later."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fs_type, _source, options = after.split(" ", 2)
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])  # blank, tab, newline, backslash
        mounts.append(Mount(point, fs_type, frozenset(options.split(","))))
    return tuple(mounts)


def read() -> tuple[Mount, ...]:
    """Return what this process sees."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse(file.read())


def holder(path: str) -> str:
    """Return the mount point of the mount that holds a path."""
    path = os.path.realpath(path)
    points = {mount.point for mount in read()}
    while path not in points:
        path = os.path.dirname(path)
    return path


def below(directory: str) -> tuple[str, ...]:
    """Return the mount points at and below a directory, the last mounted first: the order to unmount them in."""
    points = [mount.point for mount in read()]
    return tuple(point for point in reversed(points) if point == directory or point.startswith(directory + "/"))

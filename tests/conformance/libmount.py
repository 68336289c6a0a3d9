"""Stands in for the Python binding of libmount, which Debian does not package: as much of it as crun's tests call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fs:
    """One mount: its mount point, the options of the mount and those of its file system."""

    target: str
    vfs_options: str
    fs_options: str


class Table:
    """The mounts of a file in the format of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    def __init__(self, path: str) -> None:
        self._mounts = []
        for line in Path(path).read_text().splitlines():
            before, found, after = line.partition(" - ")
            if found:
                self._mounts.append(Fs(before.split(" ")[4], before.split(" ")[5], after.split(" ")[2]))

    def find_target(self, target: str) -> Fs:
        """Return the uppermost mount there; raises LookupError where there is none."""
        for mount in reversed(self._mounts):
            if mount.target == target:
                return mount
        raise LookupError(f"no mount at {target}")

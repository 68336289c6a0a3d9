"""A thread with mounts of its own, in which other runtimes are started: what they mount, the host never sees.

Their helpers keep sockets and locks in /run and /dev/shm whatever they are told: there these are empty. All of it goes
with the last process inside, also after `kill -9`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from harness.container import cgroups, syscalls
from harness.errors import CapabilityError
from harness.host.paths import runtime_dir

_COVERED = {"/run": "mode=0755", "/dev/shm": "mode=1777"}
T = TypeVar("T")


def hides_unified(layout: cgroups.Layout) -> bool:
    """Return whether a host is hybrid: crun refuses one whose cgroup2 has any controller (1.8.1, cgroup.c)."""
    return layout.mode == "hybrid"


def beside(path: Path) -> Path:
    """Return a path by which a thread that is aside, and what it starts, reach what the host has at `path`.

    Source: proc(5), /proc/PID/root; PID is the process, whose first thread never goes aside.
    """
    return Path(f"/proc/{os.getpid()}/root{os.path.realpath(path)}")


class Aside:
    """The thread; `without_unified` hides the cgroup2 mount of a hybrid host. Raises: CapabilityError."""

    def __init__(self, *, without_unified: bool) -> None:
        self._without_unified = without_unified
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        try:
            self.run(self._enter)
        except OSError as error:
            self.close()
            raise CapabilityError(
                f"mounts of their own for runtimes: {error.strerror}", hint="needs CAP_SYS_ADMIN"
            ) from error

    def _enter(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        layout = cgroups.detect()
        if self._without_unified and hides_unified(layout) and layout.unified:
            syscalls.umount2(layout.unified.path, syscalls.MNT_DETACH)
        runs = runtime_dir()
        runs.mkdir(parents=True, exist_ok=True)
        fd = os.open(runs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for place, mode in _COVERED.items():
                if Path(place).is_dir():
                    syscalls.mount("tmpfs", place, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, mode)
            if not runs.exists():
                runs.mkdir(parents=True)
                syscalls.mount(f"/proc/self/fd/{fd}", str(runs), None, syscalls.MS_BIND | syscalls.MS_REC)
        finally:
            os.close(fd)
        Path("/run/lock").mkdir(exist_ok=True)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Return what a function returns in there. Raises what it raises."""
        return self._thread.submit(function, *args).result()

    def close(self) -> None:
        self._thread.shutdown()

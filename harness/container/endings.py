"""How an OCI container ends: its process, its cgroup."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from harness.container import cgroupfs
from harness.container.cgroups import Group
from harness.container.state import is_alive, process_status

DEFAULT_PARENT = "harness-oci"
_END_NS = 10_000_000_000


def kill_pid(pid: int, start_ticks: int = 0) -> None:
    """End a process and wait until it is gone, whoever its parent is; one of our own children is reaped."""
    if is_alive(pid, start_ticks):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline_ns = time.monotonic_ns() + _END_NS
    while is_alive(pid, start_ticks) and time.monotonic_ns() < deadline_ns:
        time.sleep(0.0005)
    reap(pid, start_ticks)


def reap(pid: int, start_ticks: int = 0) -> None:
    """Collect a child of ours that ended, if it is the one that started then."""
    seen = process_status(pid)
    if seen is not None and start_ticks in {0, seen[1]}:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_group(group: Group) -> None:
    """End whatever is in a cgroup, and remove it with the parents that were made for it. Raises ContainerError."""
    deadline_ns = time.monotonic_ns() + _END_NS
    if not group.try_remove():
        group.thaw()
        group.kill(deadline_ns)
    group.remove(deadline_ns, parents=True)
    for directory in group.directories:  # of containers that name no cgroup: whoever is the last takes it away
        if os.path.basename(parent := os.path.dirname(directory)) == DEFAULT_PARENT:
            cgroupfs.try_remove(parent)

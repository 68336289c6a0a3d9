"""How an OCI container ends: its process, its cgroup."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from harness.container import cgroupfs
from harness.container.cgroups import Group
from harness.container.state import is_alive

DEFAULT_PARENT = "harness-oci"
_END_NS = 10_000_000_000


def kill_pid(pid: int, start_ticks: int = 0) -> None:
    """End a process and wait until it is gone, whoever its parent is."""
    if not is_alive(pid, start_ticks):
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline_ns = time.monotonic_ns() + _END_NS
    while is_alive(pid, start_ticks) and time.monotonic_ns() < deadline_ns:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.0005)


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

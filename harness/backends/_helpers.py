"""The programs that libvirt starts beside QEMU (virtiofsd): found as children of ours, counted, reaped.

libvirt ends them with the guest, or they end by themselves when QEMU does, but it does not wait for them: they are our
children, because this process is a sub-reaper while libvirt starts a guest, and would stay zombies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

_NAME = "virtiofsd"
_SELF = Path("/proc/self/task")


def _children(task_directory: Path) -> set[int]:
    """Return the children of all threads of a process (proc(5), children)."""
    found: set[int] = set()
    for task in task_directory.iterdir():
        with contextlib.suppress(OSError):
            found |= {int(word) for word in (task / "children").read_text().split()}
    return found


def running() -> set[int]:
    """Return the pids of all that are children of this process, ended ones too."""
    found = set()
    for pid in _children(_SELF):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == _NAME:
                found.add(pid)
    return found


def with_children(pids: set[int]) -> tuple[int, ...]:
    """Return the helpers and what they started: virtiofsd works in a process of its own."""
    found = set(pids)
    for pid in pids:
        with contextlib.suppress(OSError):
            found |= _children(Path(f"/proc/{pid}/task"))
    return tuple(sorted(found))


def reap(pids: set[int], timeout_ns: int) -> None:
    """Wait until they have ended, each of them killed after `timeout_ns`. They are children of ours."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                if not poll.poll(timeout_ns / 1e6):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.waitpid(pid, 0)
            finally:
                os.close(fd)

"""One container (or process) from start to nothing."""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack

from harness.container.cgroups import Group, Limits, MemoryUse
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen
from harness.container.launcher import Launched, end_child, launch

_END_NS = 5_000_000_000


class Exit(Frozen):
    """How it ended; `returncode` is 128 + n after signal n, times cover all processes that it waited for."""

    returncode: int
    user_ns: int
    system_ns: int
    max_rss_bytes: int


class Container:
    """A running container: its pid 1 is our child, its processes are the group's, its mounts are its own."""

    def __init__(self, launched: Launched, pidfd: int, group: Group) -> None:
        self.pid = launched.pid
        self.times_ns = launched.times_ns
        self.group = group
        self.exit: Exit | None = None
        self._pidfd = pidfd
        self._deleted = False

    @classmethod
    def start(
        cls,
        plan: int,
        kept: Sequence[int],
        group: Group,
        limits: Limits,
        *,
        program: int | None = None,
        extra: Sequence[int] = (),
    ) -> Container:
        """Make the group, take the plan's steps, return when the program was executed.

        `plan` and `program` are memfds, `extra` the fds after those of the group; see `launcher.launch`. They stay the
        caller's.

        Raises: ContainerError; a start that failed half way leaves nothing.
        """
        with ExitStack() as undo:
            group.create(limits)
            undo.callback(end_group, group)
            with group.join_fds() as cgroup_fds:
                launched = launch(plan, kept, (*cgroup_fds, *extra), program=program)
            undo.callback(end_child, launched.pid)
            pidfd = os.pidfd_open(launched.pid)
            undo.pop_all()
        return cls(launched, pidfd, group)

    def pids(self) -> tuple[int, ...]:
        """Return the host pids of its processes."""
        return () if self._deleted else self.group.pids()

    def memory(self) -> MemoryUse:
        return self.group.memory()

    def kill(self) -> None:
        """Kill its first process, and with it the whole pid namespace if it has one."""
        if self.exit is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self, timeout_ns: int) -> Exit | None:
        """Return how its first process ended, None when it still runs after `timeout_ns`."""
        if self.exit is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(max(0, timeout_ns) / 1e6):
                _, status, usage = os.wait4(self.pid, 0)
                code = os.waitstatus_to_exitcode(status)
                times = (round(usage.ru_utime * 1e9), round(usage.ru_stime * 1e9), usage.ru_maxrss * 1024)
                self.exit = Exit(code if code >= 0 else 128 - code, *times)
        return self.exit

    def delete(self) -> None:
        """End whatever still runs and remove the group; again does nothing. Raises ContainerError for what stays."""
        if self._deleted:
            return
        self.kill()
        if self.wait(_END_NS) is None:
            raise ContainerError("kill", errno.EBUSY, f"pid {self.pid} does not end")
        end_group(self.group)
        os.close(self._pidfd)
        self._deleted = True


def end_group(group: Group) -> None:
    """End what is still in a group and remove it. Raises ContainerError."""
    if group.try_remove():
        return
    deadline_ns = time.monotonic_ns() + _END_NS
    group.kill(deadline_ns)
    group.remove(deadline_ns)

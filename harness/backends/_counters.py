"""What a start takes in system calls and, where the host has such a counter, in instructions: not in time.

The counters belong to the thread that starts the launcher; its children inherit them, and they run from each one's
execve on, so that nothing of the harness itself is in them.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from dataclasses import replace

from harness.agent.session import AgentSession
from harness.container import syscalls
from harness.container.errors import ContainerError
from harness.interfaces import Capability
from harness.model.milestones import READY, Mark

_HARDWARE, _TRACEPOINT = 0, 2
_INSTRUCTIONS = 1  # PERF_COUNT_HW_INSTRUCTIONS
_DISABLED, _INHERIT, _EXCLUDE_HV, _ENABLE_ON_EXEC = 1 << 0, 1 << 1, 1 << 6, 1 << 12
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")  # struct perf_event_attr, PERF_ATTR_SIZE_VER0 (64 bytes)
_COUNT = struct.Struct("=Q")
_SETTLED_S, _SETTLE_MAX_S = 0.003, 0.1
_NO_ENTRY = {errno.ENOENT, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.ENODEV}


def _open(kind: int, config: int) -> int:
    flags = _DISABLED | _INHERIT | _EXCLUDE_HV | _ENABLE_ON_EXEC
    return syscalls.perf_event_open(_ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, 0, 0, 0, flags, 0, 0, 0))


def call_event() -> int:
    """Return the number of the tracepoint at the entry of every system call, from a tracefs of our own.

    Raises: OSError, ContainerError.
    """
    fs = syscalls.fsopen("tracefs")
    try:
        syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
        root = syscalls.fsmount(fs, 0)
    finally:
        os.close(fs)
    try:
        with os.fdopen(os.open("events/raw_syscalls/sys_enter/id", os.O_RDONLY, dir_fd=root)) as file:
            return int(file.read())
    finally:
        os.close(root)


def need() -> Capability:
    """Return whether system calls can be counted here."""
    try:
        os.close(_open(_TRACEPOINT, call_event()))
    except (OSError, ContainerError) as error:
        hint = "a kernel with CONFIG_FTRACE_SYSCALLS, and root on the host itself (perf_event_paranoid)"
        return Capability("count", available=False, reason=f"system calls cannot be counted: {error}", hint=hint)
    return Capability("count", available=True, reason="system calls, by raw_syscalls:sys_enter")


class Counters:
    """The counters of one start. `instructions` is None where this host has no such counter (most virtual ones)."""

    def __init__(self, event: int) -> None:
        self._calls = _open(_TRACEPOINT, event)
        self._instructions: int | None = None
        try:
            self._instructions = _open(_HARDWARE, _INSTRUCTIONS)
        except OSError as error:
            if error.errno not in _NO_ENTRY:
                os.close(self._calls)
                raise

    def read(self) -> tuple[int, int | None]:
        """Return system calls and instructions so far, those of ended children included."""
        hardware = self._instructions
        calls: int = _COUNT.unpack(os.read(self._calls, 8))[0]
        return calls, None if hardware is None else _COUNT.unpack(os.read(hardware, 8))[0]

    def settled(self) -> tuple[int, int | None]:
        """Return them when no more system calls are made for a moment: whoever sent a mark has returned from it."""
        deadline_s = time.monotonic() + _SETTLE_MAX_S
        before = self.read()
        while time.monotonic() < deadline_s:
            time.sleep(_SETTLED_S)
            now = self.read()
            if now[0] == before[0]:
                break
            before = now
        return before

    def close(self) -> None:
        for fd in (self._calls, self._instructions):
            if fd is not None:
                os.close(fd)


class CountingSession(AgentSession):
    """A session whose mark `ready` says what the start took."""

    def __init__(self, event: int) -> None:
        super().__init__()
        self._counters: Counters | None = Counters(event)

    def _append(self, mark: Mark) -> None:
        if mark.milestone == READY and self._counters is not None:
            calls, instructions = self._counters.settled()
            mark = replace(mark, calls=calls, instructions=instructions)
            self._drop()
        super()._append(mark)

    def _drop(self) -> None:
        counters, self._counters = self._counters, None
        if counters is not None:
            counters.close()

    def close(self) -> None:
        super().close()
        self._drop()

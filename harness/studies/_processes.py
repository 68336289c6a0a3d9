"""Processes of a sandbox, held so that no later process of the same number is taken for one of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_LOOK_S = 0.002


class Processes:
    """Processes of the host by pidfd (pidfd_open(2)); those that have ended before are left out."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._fds: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._fds[pid] = os.pidfd_open(pid)

    def living(self) -> list[int]:
        """Return which of them live; a zombie does not."""
        poll, found = select.poll(), {fd: pid for pid, fd in self._fds.items()}
        for fd in found:
            poll.register(fd, select.POLLIN)
        ended = {fd for fd, _ in poll.poll(0)}
        return [pid for fd, pid in found.items() if fd not in ended]

    def gone_ns(self, since_ns: int, within_ns: int) -> int | None:
        """Wait until all have ended; return the time from `since_ns`, None where some live on for too long."""
        while self.living():
            if time.monotonic_ns() - since_ns > within_ns:
                return None
            time.sleep(_LOOK_S)
        return time.monotonic_ns() - since_ns

    def kill(self) -> None:
        """End them all by SIGKILL."""
        for fd in self._fds.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


@contextlib.contextmanager
def held(pids: Iterable[int]) -> Iterator[Processes]:
    """Yield processes, held for the block."""
    processes = Processes(pids)
    try:
        yield processes
    finally:
        processes.close()


def parent_of(pid: int) -> int:
    """Return the parent of a process, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def runtime_over(pid: int) -> int | None:
    """Return the runtime's process over a sandbox's first process, None where that is the harness itself or init."""
    ours, at = {0, 1}, os.getpid()
    while at not in {0, 1}:
        ours.add(at)
        at = parent_of(at)
    parent = parent_of(pid)
    return None if parent in ours else parent

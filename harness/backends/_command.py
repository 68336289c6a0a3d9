"""What stands on our side for a container that somebody else's runtime started: a command that runs as long as it."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from harness.host import process


class Running(Protocol):
    """What stands for the container on our side: its fd gets readable when the container has ended and is removed."""

    def fileno(self) -> int: ...
    @property
    def pid(self) -> int | None:
        """The process that was started for it; None where a daemon does it."""
        ...

    def wait(self, timeout_ns: int) -> int | None: ...
    def complaint(self) -> str: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Command:
    """`RUNTIME run ...` in the foreground: it ends when the container is removed. What it says is kept."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self._argv = argv
        self._log = log
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._pid = process.spawn(argv, fd)
        finally:
            os.close(fd)
        self._pidfd = os.pidfd_open(self._pid)
        self._code: int | None = None

    def fileno(self) -> int:
        return self._pidfd

    @property
    def pid(self) -> int | None:
        return self._pid

    def wait(self, timeout_ns: int) -> int | None:
        if self._code is None and is_readable(self._pidfd, timeout_ns):
            self._reap()
        return self._code

    def _reap(self) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._code = code if code >= 0 else 128 - code

    def complaint(self) -> str:
        lines = self._log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        said = next((line for line in reversed(lines) if "rror" in line or "denied" in line), (lines or [""])[-1])
        return f"{Path(self._argv[0]).name}: {said.strip() or 'ended without a word'}"

    def kill(self) -> None:
        if self._code is None:
            os.killpg(self._pid, signal.SIGKILL)
            self._reap()

    def close(self) -> None:
        os.close(self._pidfd)


def is_readable(fd: int, timeout_ns: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, timeout_ns) / 1e6))

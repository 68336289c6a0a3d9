"""Stay with a process that was started: pass signals and a terminal through, return its exit code."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BLOCK_BYTES = 1 << 16
_NOT_PASSED_ON = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGWINCH, signal.SIGURG}


def wait(pid: int, terminal: int | None = None) -> int:
    """Return the exit code of a child, 128 + n after signal n. Signals that we get meanwhile are the child's.

    With the other end of its `terminal`, which is closed at the end, our own terminal is in raw mode for the while.
    """
    with passing_signals(pid):
        if terminal is not None:
            try:
                with _raw(0), _resizing(terminal):
                    _relay(terminal)
            finally:
                os.close(terminal)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


@contextmanager
def passing_signals(pid: int) -> Iterator[None]:
    """Within it, signals that we get are those of a process; else they would end us and leave it."""

    def pass_on(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    before = {}
    for number in signal.valid_signals() - _NOT_PASSED_ON:
        with suppress(OSError, ValueError):  # those of the C library itself
            before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def give_size(terminal: int) -> None:
    """Give a terminal the size of our own, if we have one."""
    with suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))


def own_size() -> tuple[int, int] | None:
    """Return rows and columns of our own terminal, None where there is none."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return None
    return rows, columns


@contextmanager
def _resizing(terminal: int) -> Iterator[None]:
    def resize(_number: int, _frame: object) -> None:
        give_size(terminal)

    if os.isatty(0):
        resize(0, None)
    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _relay(terminal: int) -> None:
    """Copy both ways until the other side has no process any more (EIO)."""
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            data = read_block(fd)
            if fd == terminal and not data:
                return
            if fd == 0 and not data:
                poll.unregister(0)
                _write(terminal, b"\x04")  # end of file, as a terminal says it
            else:
                _write(1 if fd == terminal else terminal, data)


def read_block(fd: int) -> bytes:
    """Return a block, empty at the end; of a terminal nobody has any more that is EIO (pty(7))."""
    try:
        return os.read(fd, _BLOCK_BYTES)
    except OSError as error:
        if error.errno in {errno.EIO, errno.EBADF}:
            return b""
        raise


def _write(fd: int, data: bytes) -> None:
    with suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]

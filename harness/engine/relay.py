"""Between a process in a container and whoever started it: streams or a terminal, signals, its exit code.

The process never gets the caller's own fds, but pipes: what serves a user inside would be made that user's (fchown),
and the host's /dev/null could be changed through one. What comes out is written on, to a log as well if there is one.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from harness.container.foreground import read_block

_BLOCK_BYTES = 1 << 16
_END_OF_FILE = b"\x04"  # as a terminal says it (termios(3), VEOF)
_NOT_PASSED_ON = {
    signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU,
    signal.SIGPIPE, signal.SIGWINCH, signal.SIGURG,
}  # fmt: skip
_ENDING = {signal.SIGINT, signal.SIGTERM}
_PATIENCE = 3
"""So many requests to end, and a process that ignores them is killed: pid 1 has no default action for signals."""

Sink = Callable[[str, bytes], None]
"""Takes what came from `stdout` or `stderr`."""


@dataclass(slots=True)
class Ends:
    """Our ends of a process's streams; -1 is none. All are closed by `close`."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    terminal: int = -1

    def close(self) -> None:
        for name in ("stdin", "stdout", "stderr", "terminal"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


@contextmanager
def standard_streams(*, interactive: bool) -> Iterator[Ends]:
    """Make fds 0, 1 and 2 pipes while a process is started, and yield our ends of them, which the caller closes.

    Without `interactive`, reading ends at once. fds 3 and up of the caller stay as they are.
    """
    saved = [_saved(fd) for fd in range(3)]
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    ends = Ends(stdin[1], stdout[0], stderr[0])
    try:
        for fd, source in enumerate((stdin[0], stdout[1], stderr[1])):
            os.dup2(source, fd)
            os.close(source)
        if not interactive:
            os.close(ends.stdin)
            ends.stdin = -1
        yield ends
    except BaseException:
        ends.close()
        raise
    finally:
        for fd, former in enumerate(saved):
            if former < 0:
                os.close(fd)
            else:
                os.dup2(former, fd)
                os.close(former)


def _saved(fd: int) -> int:
    """Return a copy of an fd above the standard ones, -1 where it is closed."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    except OSError:
        return -1


# -- signals ---------------------------------------------------------------------------------------------------------


@contextmanager
def passing_signals(pid: int, say: Callable[[str], None]) -> Iterator[None]:
    """Pass the signals that we get on to a child; the third that asks it to end kills it."""
    asked = 0

    def pass_on(number: int, _frame: object) -> None:
        nonlocal asked
        asked += number in _ENDING
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if asked >= _PATIENCE else number)
        if number in _ENDING and asked == _PATIENCE - 1:
            say("it was asked to end before and still runs; once more kills it")

    before = {}
    for number in signal.valid_signals() - _NOT_PASSED_ON:
        with suppress(OSError, ValueError):  # those of the C library itself
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- terminals -------------------------------------------------------------------------------------------------------


def window_size() -> tuple[int, int] | None:
    """Return rows and columns of our own terminal, None where we have none."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


@contextmanager
def _own_terminal(terminal: int) -> Iterator[None]:
    """Have our own terminal raw and its size followed by the other one, if stdin is one."""
    if terminal < 0 or not os.isatty(0):
        yield
        return

    def resize(_number: int, _frame: object) -> None:
        with suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))

    mode = termios.tcgetattr(0)
    handler = signal.signal(signal.SIGWINCH, resize)
    resize(0, None)
    tty.setraw(0)
    try:
        yield
    finally:
        with suppress(termios.error):  # it was hung up meanwhile
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
        signal.signal(signal.SIGWINCH, handler)


# -- the loop --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Relay:
    """Carries bytes until a process ends. `attached`: to and from our own fds 0, 1 and 2; `log` takes a copy."""

    ends: Ends
    attached: bool = True
    log: Sink | None = None
    _poll: select.poll = field(default_factory=select.poll)
    _outputs: dict[int, tuple[str, int]] = field(default_factory=dict)
    _input: int = -1
    _pending: bytes = b""

    def run(self, pid: int) -> None:
        """Return when the process ended and what it wrote was taken. Everything of `ends` is closed then."""
        pidfd = os.pidfd_open(pid)
        with ExitStack() as stack:
            stack.callback(os.close, pidfd)
            stack.callback(self.ends.close)
            if self.attached and self._wants_input():
                stack.enter_context(_own_terminal(self.ends.terminal))
            self._begin()
            self._poll.register(pidfd, select.POLLIN)
            while not self._turn(pidfd):
                pass
            self._drain()

    def _wants_input(self) -> bool:
        return self.ends.stdin >= 0

    def _begin(self) -> None:
        terminal = self.ends.terminal
        if terminal >= 0:
            self._outputs = {terminal: ("stdout", 1)}
        else:
            self._outputs = {self.ends.stdout: ("stdout", 1), self.ends.stderr: ("stderr", 2)}
        for fd in self._outputs:
            self._poll.register(fd, select.POLLIN)
        if self._wants_input() and self.attached:
            self._input = terminal if terminal >= 0 else self.ends.stdin
            os.set_blocking(self._input, False)
            self._poll.register(0, select.POLLIN)

    def _turn(self, pidfd: int) -> bool:
        """Move what is there; return whether the process has ended."""
        ready = dict(self._poll.poll())
        for fd in [fd for fd in self._outputs if fd in ready]:
            if ready[fd] & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._carry(fd)
        if 0 in ready:
            self._take_input()
        if self._pending and self._input in ready and ready[self._input] & (select.POLLOUT | select.POLLERR):
            self._give_input()
        return pidfd in ready

    def _drain(self) -> None:
        """Take what is left; who else still holds a pipe (a process that `exec` left behind) is not waited for."""
        for fd in list(self._outputs):
            os.set_blocking(fd, False)
            while fd in self._outputs and self._carry(fd):
                pass

    def _carry(self, fd: int) -> bool:
        """Take one block of an output; return whether there may be more."""
        stream, target = self._outputs[fd]
        try:
            data = read_block(fd)
        except BlockingIOError:
            return False
        if not data:
            self._forget(fd)
            return False
        if self.log is not None:
            self.log(stream, data)
        if self.attached and not _write(target, data):
            self._forget(fd)  # nobody reads us any more: so let the process learn it (SIGPIPE), as without a container
        return True

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._outputs[fd]
        if fd == self.ends.stdout:
            os.close(fd)
            self.ends.stdout = -1
        elif fd == self.ends.stderr:
            os.close(fd)
            self.ends.stderr = -1

    # -- input -------------------------------------------------------------------------------------------------------

    def _take_input(self) -> None:
        """Read a block of our stdin; no more is read before it was given on."""
        data = read_block(0)
        self._poll.unregister(0)
        if not data and self.ends.terminal < 0:
            os.close(self.ends.stdin)
            self.ends.stdin = self._input = -1
            return
        self._pending = data or _END_OF_FILE
        self._watch_input(also=select.POLLOUT)

    def _watch_input(self, also: int) -> None:
        is_output = self._input in self._outputs
        self._poll.register(self._input, (select.POLLIN if is_output else 0) | also)

    def _give_input(self) -> None:
        was_end = self._pending == _END_OF_FILE and self.ends.terminal >= 0
        try:
            self._pending = self._pending[os.write(self._input, self._pending) :]
        except BlockingIOError:
            return
        except OSError:  # the process closed it
            self._pending, was_end = b"", True
        if self._pending:
            return
        if self._input in self._outputs:
            self._watch_input(also=0)
        else:
            self._poll.unregister(self._input)
        if not was_end:
            self._poll.register(0, select.POLLIN)


def _write(fd: int, data: bytes) -> bool:
    """Write everything; return whether anybody reads it."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # whoever gave us this fd made it so
            select.select((), (fd,), ())
        except OSError:
            return False
    return True


def exit_code(pid: int) -> int:
    """Wait for a child and return its exit code, 128 + n after signal n."""
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code

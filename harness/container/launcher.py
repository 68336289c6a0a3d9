"""Start `harness-launch`: a static C program that takes a plan's steps and becomes the container's process.

It runs from a sealed memfd, so that nobody inside can reach its file on the host through /proc/self/exe (the way of
CVE-2019-5736), and by posix_spawn, which does not copy this process's page tables: a fork of a Python that holds 1 GiB
takes some 40 ms longer. It reports on a socket; the end of that, without an error before it, is the program's execve.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from harness.container.errors import ContainerError
from harness.container.frozen import Frozen
from harness.container.step import Step, encode

PROGRAM = os.path.join(os.path.dirname(__file__), "harness-launch")  # without pathlib's import
AGENT_FDS = 6
"""What an agent gets as 0 to 5: stdin, stdout, stderr, specification, marks, control; 6 is its tree."""

_RECORD_BYTES = 1 << 16
# What is ignored stays so across execve: Python ignores SIGPIPE, nohup SIGHUP, a shell SIGINT for what it backgrounds.
_RESET = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC = 0x10  # include/uapi/linux/memfd.h, Linux 6.3

OnSync = Callable[[str, int], bytes]
"""Called with the name of a sync point and the pid; returns the state, as hooks in the container are told it."""
OnCreated = Callable[["Launched"], None]
"""Called when the container waits for `start`; if the caller dies in it, the container ends too."""


class Launched:
    """A process that was started: its pid; the monotonic times after each step, if traced; fds that it handed out.

    One that was created waits for `start` and has not executed its program.
    """

    __slots__ = ("began_ns", "created", "fds", "pid", "steps", "times_ns")

    def __init__(self, pid: int, times_ns: tuple[int, ...], fds: dict[str, int], *, created: bool) -> None:
        self.pid = pid
        self.times_ns = times_ns
        self.fds = fds
        self.created = created
        self.steps: Sequence[Step] = ()
        self.began_ns = 0

    def trace_lines(self) -> list[str]:
        """Return one line a step: what it took, in µs, and what it was; the first has the launcher's start in it."""
        lines, before = [], self.began_ns
        for index, (step, at_ns) in enumerate(zip(self.steps, self.times_ns, strict=False)):
            lines.append(f"{index:3} {(at_ns - before) / 1e3:9.1f} us  {step}")
            before = at_ns
        return lines


class Listeners(Frozen):
    """Who does what the launcher waits for."""

    on_sync: OnSync
    on_created: OnCreated


def sealed_memfd(name: str, content: bytes, *, executable: bool = False) -> int:
    """Return a close-on-exec memfd that nobody can change. Raises ContainerError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            fd = os.memfd_create(name, flags | (_MFD_EXEC if executable else 0))
        except OSError:
            if not executable:
                raise
            fd = os.memfd_create(name, flags)  # a kernel that does not know MFD_EXEC has no other memfds
        with os.fdopen(os.dup(fd), "wb", closefd=True) as file:
            file.write(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise ContainerError("memfd", error.errno or 0, name) from error
    return fd


def plan_memfd(steps: Sequence[Step]) -> int:
    """Return a sealed memfd of a plan, which any number of launches may share."""
    return sealed_memfd("harness-plan", encode(steps))


_program: list[int] = []


def program_fd() -> int:
    """Return the launcher's memfd, made once for this process. Raises ContainerError where it is not built."""
    if not _program:
        try:
            with open(PROGRAM, "rb") as file:
                content = file.read()
        except OSError as error:
            raise ContainerError("launcher", error.errno or 0, PROGRAM) from error
        made = sealed_memfd("harness-launch", content, executable=True)
        _program.append(made)
        if _program[0] != made:  # another thread was first
            _program.remove(made)
            os.close(made)
    return _program[0]


def launch(
    plan: int,
    kept: Sequence[int | None],
    extra: Sequence[int],
    *,
    program: int | None = None,
    listeners: Listeners | None = None,
) -> Launched:
    """Take a plan's steps; return when the program was executed, or when the container is created and waits.

    `kept` become the program's fds 0, 1, 2, ...; `extra` are those of `plan.Launch`, in its order. All stay
    the caller's.
    A program with `parent-death` in its plan dies with the *thread* that calls this (prctl(2), PR_SET_PDEATHSIG).

    Raises: ContainerError with the step that failed; nothing runs then.
    """
    began_ns = time.monotonic_ns()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            sources = [*kept, plan, theirs.fileno(), plan if program is None else program, *extra]
            spawned = _spawn(sources, len(kept))
        launched = _await(spawned, ours, listeners)
    launched.began_ns = began_ns
    return launched


def _spawn(sources: Sequence[int | None], kept: int) -> int:
    """Start the launcher with `sources` as its fds 0, 1, 2 and so on; itself is the last."""
    fds = [(number, fd) for number, fd in enumerate((*sources, program_fd())) if fd is not None]
    last = fds[-1][0]
    base = max(last, *(fd for _, fd in fds)) + 1  # first out of each other's way
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, fd, base + number) for number, fd in fds]
    actions += [(os.POSIX_SPAWN_DUP2, base + number, number) for number, _ in fds]
    actions += [(os.POSIX_SPAWN_CLOSE, base + number) for number, _ in fds]
    path, argv = f"/proc/self/fd/{last}", ["harness-launch", str(kept)]
    try:
        return os.posix_spawn(path, argv, {}, file_actions=actions, setsigmask=(), setsigdef=_RESET)
    except OSError as error:
        raise ContainerError("launcher", error.errno or 0, PROGRAM) from error


def receive(status: socket.socket) -> tuple[str, int | None] | None:
    """Return the next record of a launcher with the fd that came with it, None when nobody is left to tell more."""
    data, ancillary, _, _ = status.recvmsg(_RECORD_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    fds = [array.array("i", payload)[0] for _level, kind, payload in ancillary if kind == socket.SCM_RIGHTS]
    return (data.decode("utf-8", "replace"), fds[0] if fds else None) if data else None


class _Conversation:
    """What the launcher told so far."""

    def __init__(self, status: socket.socket, listeners: Listeners | None) -> None:
        self.pid: int | None = None
        self.error: ContainerError | None = None
        self.times_ns: tuple[int, ...] = ()
        self.fds: dict[str, int] = {}
        self.created = False
        self._status = status
        self._listeners = listeners
        self._waiting: list[tuple[str, str]] = []

    def run(self) -> None:
        """Listen until nobody is left who could tell more."""
        while received := receive(self._status):
            self._hear(*received)
            while self._waiting and self.pid is not None:  # who waits may be quicker than who tells its pid
                self._answer(*self._waiting.pop(0), self.pid)

    def _hear(self, text: str, fd: int | None) -> None:
        kind, _, rest = text.partition(" ")
        match kind:
            case "pid":
                self.pid = int(rest)
            case "error":
                self.error = parse_error(rest)
            case "trace":
                self.times_ns = tuple(map(int, rest.split()))
            case "created" | "sync":
                self._waiting.append((kind, rest))
            case "fd" if fd is not None:
                self.fds[rest] = fd
            case _:
                raise ContainerError("launcher", 0, f"said {text!r}")

    def _answer(self, kind: str, name: str, pid: int) -> None:
        assert self._listeners is not None
        answer = b"go"
        if kind == "sync":
            answer = self._listeners.on_sync(name, pid)
        else:
            self.created = True
            self._listeners.on_created(self.launched())
        try:
            self._status.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it ended meanwhile: what it said before is still to be read
        except OSError as error:
            raise ContainerError(f"sync {name}", error.errno or 0, f"a state of {len(answer)} bytes") from error

    def launched(self) -> Launched:
        assert self.pid is not None
        return Launched(self.pid, self.times_ns, self.fds, created=self.created)


def parse_error(text: str) -> ContainerError:
    """Return what a record `error INDEX NAME ERRNO DETAIL` says."""
    index, name, number, detail = text.split(" ", 3)
    return ContainerError(f"step {index} ({name})", int(number), detail)


def _await(spawned: int, status: socket.socket, listeners: Listeners | None) -> Launched:
    """Return the process that was cloned, when it has executed its program."""
    told = _Conversation(status, listeners)
    try:
        told.run()
    except BaseException:  # a hook that failed, Ctrl-C: the launcher and what it cloned shall end, and be reaped
        _kill(spawned)
        end_child(told.pid)
        _close(told.fds)
        raise
    _, wait_status = os.waitpid(spawned, 0)
    if told.pid is not None and told.error is None and wait_status == 0:
        return told.launched()
    end_child(told.pid)
    _close(told.fds)
    how = f"ended with status {wait_status} and said nothing"
    raise told.error or ContainerError("launcher", 0, how)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def end_child(pid: int | None) -> None:
    """Kill a child of ours and reap it; None, or one that is gone, needs nothing."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _close(fds: dict[str, int]) -> None:
    with ExitStack() as stack:
        for fd in fds.values():
            stack.callback(os.close, fd)

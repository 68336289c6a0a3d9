"""Start `harness-launch`: a static C program that takes a plan's steps and becomes the agent.

It is started by posix_spawn, which does not copy this process's page tables: a fork of a Python that holds 1 GiB takes
some 40 ms longer. The program reports on a pipe; that pipe's end, without an error before it, is the agent's execve.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.container.errors import ContainerError
from harness.container.plan import FD_CGROUP, Step, encode

PROGRAM = os.path.join(os.path.dirname(__file__), "harness-launch")  # without pathlib's import
AGENT_FDS = 6
"""What the agent gets as 0 to 5: stdin, stdout, stderr, specification, marks, control."""

# What is ignored stays so across execve: Python ignores SIGPIPE, nohup SIGHUP, a shell SIGINT for what it backgrounds.
_RESET = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Report:
    """What the launcher wrote: the pid that it cloned, and the step that failed."""

    pid: int | None = None
    error: ContainerError | None = None


def plan_memfd(steps: Sequence[Step]) -> int:
    """Return a sealed close-on-exec memfd of a plan, which any number of launches may share."""
    fd = os.memfd_create("harness-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(encode(steps))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    return fd


def parse_report(text: str) -> Report:
    """Return what the lines `pid N` and `error INDEX NAME ERRNO DETAIL` say."""
    pid, error = None, None
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "pid":
            pid = int(rest)
        elif kind == "error":
            index, name, number, detail = rest.split(" ", 3)
            error = ContainerError(f"step {index} ({name})", int(number), detail)
    return Report(pid, error)


def launch(plan: int, agent: int, agent_fds: Sequence[int], cgroup_fds: Sequence[int]) -> int:
    """Start the agent by a plan; return its pid, a child of the calling thread's process, once it was executed.

    All fds stay the caller's. The agent dies with the *thread* that calls this (prctl(2), PR_SET_PDEATHSIG).

    Raises: ContainerError with the step that failed; nothing runs then.
    """
    if len(agent_fds) != AGENT_FDS:
        raise ContainerError("launch", 0, f"{len(agent_fds)} fds for the agent, {AGENT_FDS} are needed")
    status_r, status_w = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            spawned = _spawn([*agent_fds, plan, status_w, agent, *cgroup_fds])
        finally:
            os.close(status_w)
        return _await(spawned, status_r)
    finally:
        os.close(status_r)


def _spawn(sources: Sequence[int]) -> int:
    """Start the launcher with `sources` as its fds 0, 1, 2 and so on."""
    assert len(sources) >= FD_CGROUP
    base = max(*sources, len(sources)) + 1  # first out of each other's way
    actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, fd, base + number) for number, fd in enumerate(sources)]
    actions += [(os.POSIX_SPAWN_DUP2, base + number, number) for number in range(len(sources))]
    actions += [(os.POSIX_SPAWN_CLOSE, base + number) for number in range(len(sources))]
    try:
        return os.posix_spawn(PROGRAM, ["harness-launch"], {}, file_actions=actions, setsigmask=(), setsigdef=_RESET)
    except OSError as error:
        raise ContainerError("launcher", error.errno or 0, PROGRAM) from error


def _read_all(fd: int) -> str:
    chunks = []
    while chunk := os.read(fd, 4096):
        chunks.append(chunk)
    return b"".join(chunks).decode("utf-8", "replace")


def _await(spawned: int, status: int) -> int:
    """Return the pid that was cloned, when it has executed the agent."""
    try:
        report = parse_report(_read_all(status))
    except BaseException:  # Ctrl-C: the launcher and what it cloned shall end, and be reaped
        os.kill(spawned, signal.SIGKILL)
        os.waitpid(spawned, 0)
        _end(parse_report(_read_all(status)).pid)
        raise
    _, wait_status = os.waitpid(spawned, 0)
    if report.pid is not None and report.error is None and wait_status == 0:
        return report.pid
    _end(report.pid)
    how = f"ended with status {wait_status} and said nothing"
    raise report.error or ContainerError("launcher", 0, how)


def _end(pid: int | None) -> None:
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

"""Another process in a container that runs: `exec`."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from harness.container import hooks, launcher, plan
from harness.container.create import Streams, check_terminal, compiled, extra_fds, granted, hand_out, tell_plan
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen, replace
from harness.container.launcher import Launched
from harness.container.oci import Runtime, found_in, group_of
from harness.container.spec import CLONE_FLAGS, Process
from harness.container.state import Record, is_alive

# Names of /proc/PID/ns; what a process's children get is not asked for.
_LINKS = {"mnt": "mount", "pid": "pid", "net": "network", "uts": "uts", "ipc": "ipc", "user": "user",
          "cgroup": "cgroup", "time": "time"}  # fmt: skip


class ExecOptions(Frozen):
    """How a process is added: although the container is paused, and whether its terminal stays with the caller."""

    ignore_paused: bool = False
    trace: bool = False
    proxied: bool = False
    dies_with_parent: bool = False


_AS_USUAL = ExecOptions()


def namespaces_apart(pid: int) -> int:
    """Return the CLONE_NEW* flags of the namespaces in which a process is and we are not. Raises ContainerError."""
    flags = 0
    try:
        for link, kind in _LINKS.items():
            theirs = f"/proc/{pid}/ns/{link}"
            if os.path.lexists(theirs) and os.readlink(theirs) != os.readlink(f"/proc/self/ns/{link}"):
                flags |= CLONE_FLAGS[kind]  # type: ignore[index]
    except OSError as error:
        raise ContainerError("exec", error.errno or 0, f"namespaces of pid {pid}") from error
    return flags


def base_process(runtime: Runtime, container_id: str) -> Process:
    """Return the container's own process, on which the options of a command line build. Raises ContainerError."""
    with runtime.homes.open(container_id) as home:
        return runtime.loaded(home, home.load()).container.process


def execute(
    runtime: Runtime, container_id: str, process: Process, streams: Streams, options: ExecOptions = _AS_USUAL
) -> Launched:
    """Start a process in a container; return when it was executed. Its capabilities are the container's if it has none.

    Raises: ContainerError; nothing runs then.
    """
    with runtime.homes.open(container_id) as home:
        record, status = found_in(home)
        if status not in {"created", "running"} and not (status == "paused" and options.ignore_paused):
            raise ContainerError("exec", 0, f"{container_id}: cannot exec in a container that is {status}")
        if not options.proxied:
            check_terminal(process, streams)
        loaded = runtime.loaded(home, record)
        if process.capabilities is None:
            process = replace(process, capabilities=loaded.container.process.capabilities)
        process = granted(process, runtime.warn, all_=runtime.rootless or loaded.container.has("user"))
        process = compiled(process, loaded, runtime.cache_dir)
        launched = _launch(runtime, record, process, streams, options)
        hand_out(launched, streams, loaded, hooks.state_document(record, status))
    return launched


def _open_pidfd(record: Record) -> int:
    """Return a pidfd of the container's first process, not of a later one with its number."""
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError as error:
        raise ContainerError("exec", error.errno or 0, record.id) from error
    if not is_alive(record.pid, record.start_ticks):
        os.close(fd)
        raise ContainerError("exec", errno.ESRCH, record.id)
    return fd


def _launch(runtime: Runtime, record: Record, process: Process, streams: Streams, options: ExecOptions) -> Launched:
    with ExitStack() as stack:
        own = group_of(record)
        group = own.beside(record.pid) if own else None
        extra = extra_fds(group, process, stack)
        extra.append(_open_pidfd(record))
        stack.callback(os.close, extra[-1])
        how = plan.Launch(
            3 + len(streams.preserved),
            group.joins() if group else plan.Joins(),
            seccomp=process.seccomp is not None,
            trace=options.trace,
            rootless=runtime.rootless,
            keyring=f"_ses.{record.id}",
            dies_with_parent=options.dies_with_parent,
        )
        steps = plan.exec_steps(process, how, namespaces_apart(record.pid))
        tell_plan(runtime.debug, steps)
        memfd = launcher.plan_memfd(steps)
        stack.callback(os.close, memfd)
        launched = launcher.launch(memfd, (0, 1, 2, *streams.preserved), extra)
    launched.steps = steps
    return launched

"""Which programs an engine executes on the way to a container, and when: the kernel's own trace of execve.

Tracefs is mounted in the arm's own mount namespace and an instance of the run's name is made there, with the clock that
marks have (`mono` is CLOCK_MONOTONIC) and the one event sched_process_exec, of the wanted programs alone. Nothing is
read before the container has ended. Source: Documentation/trace/ftrace.rst of the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from harness.container import syscalls
from harness.errors import CapabilityError
from harness.interfaces import Capability
from harness.model.milestones import OCI_EXEC, OCI_START, SHIM_EXEC, Mark

_AT = Path("/run/tracing")
_INSTANCE = re.compile(r"harness-([0-9a-f]{8})\..*")
_SHIMS = ("containerd-shim-runc-v2", "containerd-shim", "conmon")
_RUNTIMES = ("runc", "crun")
_LINE = re.compile(r" (\d+)\.(\d{6}): sched_process_exec: filename=(\S+) ")


def need() -> Capability:
    if syscalls.has_filesystem("tracefs"):
        return Capability("tracefs", available=True, reason="the kernel has tracefs")
    return Capability("tracefs", available=False, reason="the kernel has no tracefs", hint="leave `trace` out")


class ExecTrace:
    """The trace of one arm; made and used in the thread that has its mounts. Raises: CapabilityError."""

    def __init__(self, token: str, runtime: str) -> None:
        self._place = _AT / "instances" / f"harness-{token}.{runtime}"
        programs = " || ".join(f'filename ~ "*/{name}"' for name in (*_SHIMS, *_RUNTIMES))
        event = "events/sched/sched_process_exec"
        try:
            _mount()
            self._place.mkdir()
            for name, value in (("trace_clock", "mono"), (f"{event}/filter", programs), (f"{event}/enable", "1")):
                (self._place / name).write_text(value)
        except OSError as error:
            self.close()
            raise CapabilityError(f"trace: {error.filename}: {error.strerror}", hint="leave `trace` out") from error

    def clear(self) -> None:
        (self._place / "trace").write_text("")

    def marks(self, begin_ns: int, end_ns: int) -> list[Mark]:
        """Return what was executed between two times, as marks."""
        return parse((self._place / "trace").read_text(), begin_ns, end_ns)

    def close(self) -> None:
        with suppress(OSError):
            self._place.rmdir()
        with suppress(OSError):
            syscalls.umount2(str(_AT), syscalls.MNT_DETACH)


def _mount() -> None:
    _AT.mkdir(exist_ok=True)
    syscalls.mount("tracefs", str(_AT), "tracefs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)


def parse(trace: str, begin_ns: int, end_ns: int) -> list[Mark]:
    """Return the marks of a trace's text: the first shim, the first and the second call of an OCI runtime."""
    shims: list[tuple[int, str]] = []
    runtimes: list[tuple[int, str]] = []
    for line in trace.splitlines():
        found = _LINE.search(line)
        if found is None:
            continue
        at_ns = int(found[1]) * 10**9 + int(found[2]) * 1000
        if begin_ns <= at_ns <= end_ns:
            name = found[3].rpartition("/")[2]
            (shims if name in _SHIMS else runtimes).append((at_ns, found[3]))
    marks = [Mark(SHIM_EXEC, *shims[0])] if shims else []
    return [*marks, *(Mark(name, *call) for name, call in zip((OCI_EXEC, OCI_START), runtimes, strict=False))]


# -- what a dead run left --------------------------------------------------------------------------------------------


def tokens() -> set[str]:
    """Return the tokens of all runs that have an instance here."""
    return {found[1] for name in _aside("") if (found := _INSTANCE.fullmatch(name))}


def reap(token: str, *, dry_run: bool) -> list[str]:
    """Remove the instances of a dead run; return one line for each."""
    found = _aside("" if dry_run else token)
    return [f"trace: {name}" for name in found if name.startswith(f"harness-{token}.")]


def _aside(remove: str) -> Sequence[str]:
    """Return the names of all instances, those of the run `remove` removed; seen by a thread with its own mounts."""

    def look() -> list[str]:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        syscalls.mount("tmpfs", "/run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
        _mount()
        places = sorted((_AT / "instances").iterdir())
        for place in places:
            if remove and place.name.startswith(f"harness-{remove}."):
                place.rmdir()
        return [place.name for place in places]

    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(look).result()
        except OSError:  # no privilege, or no tracefs: then nobody has made any either
            return []

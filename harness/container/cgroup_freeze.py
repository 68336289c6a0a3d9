"""Stop, continue and end all processes of a group, on cgroup v1 and v2.

Source: cgroup-v2.rst ("cgroup.freeze", "cgroup.kill"), cgroup-v1/freezer-subsystem.rst of the kernel.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from harness.container import cgroupfs
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen

_PATIENCE = 50
"""How often a v1 group is looked at before it is thawed and frozen again."""


class Switches(Frozen):
    """Where a group can be stopped: its directories in the cgroup2 tree and in the v1 freezer's, None where not."""

    unified: str | None
    freezer: str | None


def freeze(switches: Switches, deadline_ns: int) -> None:
    """Stop all processes, those of groups below too. Raises ContainerError; at the deadline all run on (EBUSY)."""
    try:
        if _has_freeze(switches):
            cgroupfs.write(f"{switches.unified}/cgroup.freeze", "1")
            _until(lambda: "frozen 1" in (cgroupfs.read(f"{switches.unified}/cgroup.events") or ""), deadline_ns)
        elif switches.freezer:
            _freeze_v1(f"{switches.freezer}/freezer.state", deadline_ns)
        else:
            raise ContainerError("freeze", 0, "this host has no freezer controller and no cgroup2 tree")
    except ContainerError:
        thaw(switches)
        raise


def _has_freeze(switches: Switches) -> bool:
    """Linux 5.2."""
    return switches.unified is not None and os.path.exists(f"{switches.unified}/cgroup.freeze")


def _freeze_v1(state: str, deadline_ns: int) -> None:
    """A process that sleeps uninterruptibly may keep a v1 group FREEZING for good: thawing lets it get further."""
    for look in range(1, 1 << 62):
        cgroupfs.write(state, "FROZEN")
        if (cgroupfs.read(state) or "").strip() == "FROZEN":
            return
        if time.monotonic_ns() > deadline_ns:
            raise ContainerError("freeze", errno.EBUSY, state)
        if look % _PATIENCE == 0:
            cgroupfs.write(state, "THAWED")
        time.sleep(cgroupfs.PAUSE_S)


def _until(done: Callable[[], bool], deadline_ns: int) -> None:
    while not done():
        if time.monotonic_ns() > deadline_ns:
            raise ContainerError("freeze", errno.EBUSY, "processes do not stop")
        time.sleep(cgroupfs.PAUSE_S)


def thaw(switches: Switches) -> None:
    """Let all run again, whichever way they were stopped."""
    if _has_freeze(switches):
        cgroupfs.write(f"{switches.unified}/cgroup.freeze", "0")
    if switches.freezer and os.path.exists(f"{switches.freezer}/freezer.state"):
        cgroupfs.write(f"{switches.freezer}/freezer.state", "THAWED")


def is_frozen(switches: Switches) -> bool:
    """Return whether its processes are stopped, or on their way to it, by this group or one above."""
    if switches.unified and "frozen 1" in (cgroupfs.read(f"{switches.unified}/cgroup.events") or ""):
        return True
    if switches.unified and (cgroupfs.read(f"{switches.unified}/cgroup.freeze") or "0").strip() == "1":
        return True
    state = cgroupfs.read(f"{switches.freezer}/freezer.state") if switches.freezer else None
    return (state or "THAWED").strip() != "THAWED"


def kill(switches: Switches, directories: Sequence[str], deadline_ns: int) -> None:
    """End every process in the directories and below: at once where cgroup2 can, else frozen, so that none escapes.

    Raises ContainerError (EBUSY) at the deadline.
    """
    # Linux 5.14. What is below the group in a v1 tree is in or below it in this one too: one tree to look through.
    at_once = switches.unified is not None and os.path.exists(f"{switches.unified}/cgroup.kill")
    if at_once:
        cgroupfs.write(f"{switches.unified}/cgroup.kill", "1")
    look = {
        path: cgroupfs.pids_in if at_once and path != switches.unified else cgroupfs.pids_below for path in directories
    }
    state = f"{switches.freezer}/freezer.state" if switches.freezer else ""
    while pids := {pid for directory, find in look.items() for pid in find(directory)}:
        if time.monotonic_ns() > deadline_ns:
            raise ContainerError("kill", errno.EBUSY, f"{directories[0]}: {len(pids)} processes still there")
        with _frozen(state):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(cgroupfs.PAUSE_S)


@contextmanager
def _frozen(state: str) -> Iterator[None]:
    """Stop what is in a v1 group for the while; a group that was stopped before runs on, or its signals would wait."""
    if not state or not os.path.exists(state):
        yield
        return
    cgroupfs.write(state, "FROZEN")
    try:
        yield
    finally:
        cgroupfs.write(state, "THAWED")

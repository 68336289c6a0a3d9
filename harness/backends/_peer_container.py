"""A container that somebody else's runtime started, as the host sees it: its processes, its cgroup, its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.backends._command import Running
from harness.backends._door import Door
from harness.container import cgroups
from harness.container.cgroups import Group, MemoryUse
from harness.container.errors import ContainerError
from harness.container.runtime import Exit, end_group
from harness.errors import BackendError

_END_NS = 20_000_000_000


class PeerContainer:
    """What somebody else's runtime started, as `_local.Started`."""

    def __init__(self, running: Running, door: Door, layout: cgroups.Layout, group: Group | None) -> None:
        self.running = running
        self.force: Callable[[], None] = lambda: None
        self._door = door
        self._layout = layout
        self.inside = False
        """Whether the group that the harness made is the one that its processes are in."""
        self._own = group
        self._group: Group | None = None
        self._deleted = False

    @property
    def pid(self) -> int:
        """The host pid of the agent; before it has come, that of the runtime's command."""
        return self._door.pid or self.running.pid or 0

    def pids(self) -> tuple[int, ...]:
        """Return its processes, the agent first, and the one above that serves it: a shim, a monitor, a runtime."""
        if self._deleted or self._door.pid is None:
            return ()
        found = self._find_group().pids()
        inside = (self._door.pid, *(pid for pid in found if pid != self._door.pid)) if found else ()
        above = _parent(self._door.pid)
        serves = above is not None and above > 1 and above != os.getpid() and above not in inside
        return (*inside, above) if serves and above else inside

    def memory(self) -> MemoryUse:
        return self._find_group().memory()

    def _find_group(self) -> Group:
        """Return the group that the runtime made, by what the kernel says of the agent. Raises: BackendError."""
        if self._own is not None and self.inside:
            return self._own
        if self._group is None:
            pid = self._door.pid or 0
            try:
                places = [f"{tree.path}{cgroups.own_path(tree, pid)}" for tree in self._layout.used()]
                self._group = Group.restored(self._layout, places, ())
            except ContainerError as error:
                raise BackendError(f"cgroup of pid {pid}: {error}") from error
        return self._group

    def wait(self, timeout_ns: int) -> Exit | None:
        code = self.running.wait(timeout_ns)
        return None if code is None else Exit(code, 0, 0, 0)

    def delete(self) -> None:
        """End what still runs, wait until the runtime has removed it, and remove it by force where it has not."""
        if self._deleted:
            return
        if self.running.wait(0) is None and self._door.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._door.pidfd, signal.SIGKILL)
        came = self._door.pid is not None
        if self.running.wait(_END_NS if came else 0) is None:
            self.force()
            self.running.kill()
        elif self.running.wait(0) != 0:
            self.force()
        self._deleted = True
        self.running.close()
        self._door.close()
        if self._own is not None:
            end_group(self._own)


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None

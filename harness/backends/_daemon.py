"""A daemon of an engine for one run: own socket, own data, own mounts; no network, no firewall rule.

All of it is in the run's cgroup, so that a dead run's daemon is found and ended with everything that it started.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.backends._aside import Aside
from harness.container import cgroups
from harness.container.cgroups import Group
from harness.container.errors import ContainerError
from harness.container.runtime import end_group
from harness.errors import CapabilityError
from harness.host import process
from harness.host.netns import RunNetwork
from harness.interfaces import RunContext

_READY_S = 60.0
_END_NS = 20_000_000_000
_STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine: `argv` of its daemon for a directory on disk and a socket, and whether a socket is answered.

    `argv` may write a configuration into the directory; /run is the daemon's own.
    """

    name: str
    argv: Callable[[Path, Path], list[str]]
    answers: Callable[[Path], bool]


class Daemon:
    """The daemon, answering, in the run's network where that is given; the run's own group stays when it has ended.

    Raises: CapabilityError with the end of its log where it does not.
    """

    def __init__(self, context: RunContext, kind: Kind, network: RunNetwork | None = None) -> None:
        self.data = context.work / kind.name
        self.socket = Path(os.path.realpath(context.scratch)) / f"{kind.name}.sock"
        self._kind = kind
        self._network = network
        self._log = self.data / "log"
        layout = cgroups.detect()
        with ExitStack() as undo:
            self.data.mkdir(parents=True)
            undo.callback(shutil.rmtree, self.data, ignore_errors=True)
            try:
                cgroups.prepare_parent(layout, f"harness-{context.token}")
                group = Group(layout, f"harness-{context.token}/{kind.name}")
                group.create(None)
            except ContainerError as error:
                raise CapabilityError(f"{kind.name}: {error}") from error
            undo.callback(end_group, group)
            aside = Aside(without_unified=False)
            undo.callback(aside.close)
            self._child = aside.run(self._start, group)
            undo.callback(self._end)
            self._await_answer()
            self._undo = undo.pop_all()

    def _start(self, group: Group) -> process.Running:
        argv = self._kind.argv(self.data, self.socket)
        inside = self._network.namespace.entered() if self._network else nullcontext()
        with self._log.open("wb") as stderr, group.caller_inside(), inside:
            return process.start(argv, stderr=stderr)

    def _await_answer(self) -> None:
        deadline_s = time.monotonic() + _READY_S
        while time.monotonic() < deadline_s and self._child.poll() is None:
            if self._kind.answers(self.socket):
                return
            time.sleep(_STEP_S)
        lines = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise CapabilityError(f"{self._kind.name}: does not answer: {(lines or ['no message'])[0]}")

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        process.await_end(self._child, _END_NS)

    def outside(self, path: Path) -> Path:
        """Return a path to what the daemon sees at `path`, whose mounts are its own."""
        return Path(f"/proc/{self._child.pid}/root{path}")

    def close(self) -> None:
        self._undo.close()


_daemons: dict[tuple[str, str], tuple[Daemon, int]] = {}


def acquire(context: RunContext, kind: Kind, network: RunNetwork | None = None) -> Daemon:
    """Return the daemon of a run, started for the first arm that asks. Raises: CapabilityError."""
    key = (context.token, kind.name)
    daemon, users = _daemons.get(key) or (Daemon(context, kind, network), 0)
    _daemons[key] = (daemon, users + 1)
    return daemon


def release(context: RunContext, kind: Kind) -> None:
    """Let go of what `acquire` returned; the last arm ends it."""
    key = (context.token, kind.name)
    daemon, users = _daemons.pop(key)
    if users > 1:
        _daemons[key] = (daemon, users - 1)
    else:
        daemon.close()

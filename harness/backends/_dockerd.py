"""A Docker daemon for one run: own socket, own data, own mounts; no network, no firewall rule, no configuration file.

All of it is in the run's cgroup, so that a dead run's daemon is found and ended with everything that it started.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from harness.backends import _metering
from harness.backends._aside import Aside
from harness.backends._docker_api import Api
from harness.container import cgroups
from harness.container.cgroups import Group
from harness.container.errors import ContainerError
from harness.container.runtime import end_group
from harness.errors import BackendError, CapabilityError
from harness.host import process
from harness.host.process import find_program
from harness.interfaces import RunContext

_READY_S = 60.0
_END_NS = 20_000_000_000
_STEP_S = 0.05


class Daemon:
    """The daemon, answering. Raises: CapabilityError with the end of its log where it does not."""

    def __init__(self, context: RunContext) -> None:
        self.data = context.work / "docker"
        self.socket = Path(os.path.realpath(context.scratch)) / "docker.sock"
        self._log = self.data / "log"
        layout = cgroups.detect()
        with ExitStack() as undo:
            self.data.mkdir(parents=True)
            undo.callback(shutil.rmtree, self.data, ignore_errors=True)
            try:
                cgroups.prepare_parent(layout, f"harness-{context.token}")
                undo.callback(_metering.release, context.token)
                group = Group(layout, f"harness-{context.token}/dockerd")
                group.create(None)
            except ContainerError as error:
                raise CapabilityError(f"dockerd: {error}") from error
            undo.callback(end_group, group)
            aside = Aside(without_unified=False)
            undo.callback(aside.close)
            self._child = aside.run(self._start, group)
            undo.callback(self._end)
            self._await_answer()
            self._undo = undo.pop_all()

    def _start(self, group: Group) -> process.Running:
        (self.data / "daemon.json").write_text("{}")
        argv = [
            str(find_program("dockerd")), "--config-file", f"{self.data}/daemon.json", "--data-root",
            f"{self.data}/root", "--exec-root", "/run/engine", "--pidfile", "/run/engine.pid", "--host",
            f"unix://{self.socket}", "--iptables=false", "--ip6tables=false", "--bridge=none",
            "--exec-opt", "native.cgroupdriver=cgroupfs",
        ]  # fmt: skip
        with self._log.open("wb") as stderr, group.caller_inside():
            return process.start(argv, stderr=stderr)

    def _await_answer(self) -> None:
        deadline_s = time.monotonic() + _READY_S
        api = Api(self.socket)
        while time.monotonic() < deadline_s and self._child.poll() is None:
            with suppress(BackendError):
                api.call("GET", "/_ping")
                api.close()
                return
            time.sleep(_STEP_S)
        lines = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise CapabilityError(f"dockerd: does not answer: {(lines or ['no message'])[0]}")

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        process.await_end(self._child, _END_NS)

    def close(self) -> None:
        self._undo.close()


_daemons: dict[str, tuple[Daemon, int]] = {}


def acquire(context: RunContext) -> Daemon:
    """Return the daemon of a run, started for the first arm that asks. Raises: CapabilityError."""
    daemon, users = _daemons.get(context.token) or (Daemon(context), 0)
    _daemons[context.token] = (daemon, users + 1)
    return daemon


def release(context: RunContext) -> None:
    """Let go of what `acquire` returned; the last arm ends it."""
    daemon, users = _daemons.pop(context.token)
    if users > 1:
        _daemons[context.token] = (daemon, users - 1)
    else:
        daemon.close()

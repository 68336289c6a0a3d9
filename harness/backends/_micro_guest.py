"""One running guest of a VMM that is started by its own command line: marks by its stdout, the rest by vsock.

Both VMMs connect what a guest connects to port P of the host (CID 2) to the Unix socket `PATH_P` of the host, where
PATH is what their vsock device was given. Source: docs/vsock.md of Firecracker and of Cloud Hypervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.backends import _endings, _metering
from harness.backends._domain import GuestSpec
from harness.backends._guest import Guest
from harness.errors import BackendError
from harness.host import process
from harness.host.netns import Attachment
from harness.interfaces import SavedForm
from harness.model.milestones import REQUESTED, RETURNED, VMM_EXEC

VSOCK = "v"
VSOCK_PORT = 5200
"""The first of the agent's three ports: stdout, stderr, control."""
GUEST_CID = 3
LOG, CONFIG = "log", "config.json"
_LOG_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Vmm:
    """What one VMM knows, as data and pure functions of a guest.

    `marks_port`: the I/O port whose bytes come out of its stdout; `words`: what its guest's kernel is told besides;
    `bus`: the machine that is most like it, which decides how virtio devices are found; `config`: the file that it
    reads, None where it is told everything by its command line. `home`: where it can be had.
    """

    name: str
    program: str
    home: str
    bus: Literal["q35", "microvm"]
    marks_port: int
    words: tuple[str, ...]
    argv: Callable[[GuestSpec], list[str]]
    config: Callable[[GuestSpec], bytes] | None = None


class MicroGuest(Guest):
    """A guest as an Instance. Its VMM is our child; nobody is between it and us."""

    def __init__(self, vmm: Vmm, spec: GuestSpec, meter: _metering.Meter, place: Attachment | None = None) -> None:
        super().__init__(None, spec, meter, place)
        self._vmm = vmm

    def start(self) -> None:
        """Write its configuration, then the timed path: listen, start the VMM, read marks."""
        self.spec.sockets.mkdir(parents=True, exist_ok=True)
        (self.spec.sockets / LOG).touch(0o600)  # Firecracker opens a log, and makes none
        if self._vmm.config is not None:
            (self.spec.sockets / CONFIG).write_bytes(self._vmm.config(self.spec))
        self.session.start()
        with self._as_parent():
            self.session.mark(REQUESTED)
            for number, add in enumerate((self.session.add_stdout, self.session.add_stderr)):
                self._listen_for(f"{VSOCK}_{VSOCK_PORT + number}", self._adder(add))
            self._listen_for(f"{VSOCK}_{VSOCK_PORT + 2}", self.session.add_control)
            with self.place.namespace.entered() if self.place else contextlib.nullcontext():
                self.create()
            self.session.mark(RETURNED)

    def create(self) -> None:
        """Start the VMM; returns when its program runs. Raises: BackendError."""
        log = os.open(self.spec.sockets / LOG, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.session.add_marks(reader)
        try:
            self._pid = process.spawn(self._vmm.argv(self.spec), writer, log)
        except OSError as error:
            raise BackendError(f"{self._vmm.name}: {self.spec.emulator}: {error.strerror}") from error
        finally:
            os.close(writer)
            os.close(log)
        self.session.mark(VMM_EXEC)
        self._pidfd = os.pidfd_open(self._pid)
        self.session.watch(self._pidfd, self._reap)

    def end(self) -> None:
        if self._pidfd is not None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def paused(self) -> str | None:
        return None

    def forgotten(self) -> bool:
        return True

    def _ending(self, *, gone: bool) -> _endings.Ending | None:
        ending = super()._ending(gone=gone)
        if ending is None:
            return None
        said = last_words(self.spec.sockets / LOG)
        words = f": {said}" if said and ending.kind in {"vmm-failed", "vmm-crashed"} else ""
        return replace(ending, message=ending.message.replace("QEMU", self._vmm.name) + words)

    # -- what only QEMU is asked for -----------------------------------------------------------------------------

    def _refuse(self, what: str) -> BackendError:
        return BackendError(f"{self._vmm.name}: {what}: the harness does this with backend: libvirt alone")

    def pause(self, deadline_ns: int) -> None:
        raise self._refuse("pause")

    def resume(self) -> None:
        raise self._refuse("resume")

    def reset(self) -> None:
        raise self._refuse("reset")

    def monitor(self, command: str) -> str:
        raise self._refuse(f"monitor: {command}")

    def save(self, file: Path, form: SavedForm) -> None:
        raise self._refuse("save")


def last_words(log: Path) -> str | None:
    """Return the last line of a VMM's log, None for an empty one."""
    try:
        lines = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip().splitlines()
    except OSError:
        return None
    return lines[-1].strip() if lines else None

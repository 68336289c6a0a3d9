"""One running guest: its sockets, its QEMU process, and how all of it goes away again."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.agent import prepared as requests
from harness.backends import _connection, _endings, _helpers, _metering, _saved, _vm_events
from harness.backends._boot_marks import BootSession
from harness.backends._domain import CHANNELS, GuestSpec, domain_xml
from harness.container import syscalls
from harness.errors import BackendError, TrialError, TrialTimeout
from harness.host.netns import Attachment
from harness.interfaces import Boundary, CgroupMemory, ExecResult, Json, SavedForm
from harness.model.milestones import DELETED, EXITED, KERNEL, OOM, READY, REQUESTED, RETURNED, STOPPING, VMM_EXEC, Mark
from harness.model.records import Attestation

_ANSWER_NS = 30_000_000_000
_POWER_OFF_NS = 10_000_000_000
_SYSTEM_OFF_NS = 60_000_000_000  # systemd stops its services first
_LOOK_S = 0.25
_LAST_NS = 500_000_000
_HELPER_NS = 2_000_000_000
_PEERCRED = struct.Struct("3i")


def _listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    server.bind(str(path))
    server.listen(1)
    return server


def peer_pid(channel: socket.socket) -> int:
    """Return the pid of the process at the other end of a unix socket (unix(7), SO_PEERCRED)."""
    pid: int = _PEERCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))[0]
    return pid


class Guest:
    """A guest as an Instance. `start` returns when libvirt does, which is before the guest's first instruction.

    `place` is where it is attached to the run's network, None for a guest without one; it is given back at the end.
    `release` removes the disks that were made for it.
    """

    boundary: Boundary = "vm"

    def __init__(
        self,
        connection: Any,
        spec: GuestSpec,
        meter: _metering.Meter | None,
        place: Attachment | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.place = place
        self._release = release
        self._connection = connection
        self._meter = meter
        self.session = BootSession(counted=spec.icount, tsc_khz=spec.tsc_khz)
        self._pid: int | None = None
        self._pidfd: int | None = None
        self._helpers: set[int] = set()
        self._stopped = False
        self._status: int | None = None
        self._reaped = threading.Event()
        self.gone_ns: int | None = None
        self._is_saved = False
        self._saved_in: Path | None = None
        self.rusage: Mapping[str, float] = {}

    # -- start ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The timed path: listen, ask libvirt, read marks. The cgroup that only meters is made before it."""
        self.session.start()
        with self._as_parent(), self._reaped_if_it_fails():
            self.session.mark(REQUESTED)
            self.spec.sockets.mkdir(parents=True, exist_ok=True)
            self._listen_for("marks", self._on_marks_connected)
            self._listen_for("firmware", self._session_first_byte)
            for name, add in zip(CHANNELS, (self.session.add_stdout, self.session.add_stderr), strict=False):
                self._listen_for(name, self._adder(add))
            self._listen_for("control", self.session.add_control)
            with self.place.namespace.entered() if self.place else contextlib.nullcontext():
                self.create()
            self.session.mark(RETURNED)

    @contextlib.contextmanager
    def _as_parent(self) -> Iterator[None]:
        """Have QEMU born in our cgroup and as our child, where it is we who start it.

        With a daemon below us (a test's, a user's own) a sub-reaper would only collect the daemon's orphans as zombies,
        whose end the daemon then awaits in vain.
        """
        with contextlib.ExitStack() as stack:
            if self._meter is not None:
                stack.enter_context(self._meter.inside())
            if not self.spec.by_daemon:
                stack.enter_context(syscalls.child_subreaper())
            yield

    @contextlib.contextmanager
    def _reaped_if_it_fails(self) -> Iterator[None]:
        """Collect a QEMU that ends before it has opened its channels, as our child and unknown to us.

        libvirt would wait for the zombie's end for half a minute and more before it tells what QEMU has said.
        """
        started = threading.Event()

        def look() -> None:
            while not started.wait(_LOOK_S):
                if self._pid is None:
                    _connection.reap(self.spec.name)

        if not self.spec.by_daemon:
            threading.Thread(target=look, name="qemu-reaper", daemon=True).start()
        try:
            yield
        finally:
            started.set()

    def create(self) -> None:
        """Have QEMU started; returns before the guest's first instruction."""
        before = _helpers.running() if self.spec.shares else set()
        try:
            if self._saved_in is not None:
                _saved.restore(self._connection, self._saved_in, domain_xml(self.spec))
            else:
                _connection.create(self._connection, domain_xml(self.spec), by_daemon=self.spec.by_daemon)
        except BackendError as error:
            raise BackendError(error.message, hint=error.hint, ending="not-started") from error
        finally:
            self._helpers = _helpers.running() - before if self.spec.shares else set()

    def end(self) -> None:
        """End the guest at once."""
        _connection.destroy(self._connection, self.spec.name)

    def reset(self) -> None:
        """Press the machine's reset button; it only starts again with `restarts` in its specification."""
        _connection.reset(self._connection, self.spec.name)

    def has_ended(self) -> bool:
        """Return whether QEMU has."""
        return self._wait_for_exit(0)

    def paused(self) -> str | None:
        """Return why QEMU does not run the guest any more though it is there; None while it runs."""
        return _connection.paused(self._connection, self.spec.name)

    def monitor(self, command: str) -> str:
        """Return what QEMU's own monitor says. Raises: BackendError."""
        return _connection.monitor(self._connection, self.spec.name, command)

    def listening(self) -> contextlib.AbstractContextManager[list[str]]:
        """Return a block during which a list is filled with what QEMU says by itself. Raises: BackendError."""
        return _vm_events.listening(self._connection, self.spec.name)

    def forgotten(self) -> bool:
        """Return whether libvirt lists the guest no more."""
        return not _connection.domains(self._connection, self.spec.name)

    def _listen_for(self, name: str, on_connect: Callable[[socket.socket], None]) -> None:
        self.session.listen(_listen(self.spec.sockets / name), on_connect)

    def _adder(self, add: Callable[[int], None]) -> Callable[[socket.socket], None]:
        return lambda channel: add(self.session.own(channel))

    def _session_first_byte(self, channel: socket.socket) -> None:
        self.session.add_firmware(self.session.own(channel))

    def _on_marks_connected(self, channel: socket.socket) -> None:
        """QEMU opens its devices' channels early in main(): the first sign of life, and where its pid comes from."""
        self.session.mark(VMM_EXEC)
        self._pid = peer_pid(channel)
        self._pidfd = os.pidfd_open(self._pid)
        self.session.watch(self._pidfd, self._reap)
        self.session.add_marks(self.session.own(channel))

    # -- Instance ------------------------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        return self.spec.memory_bytes

    @property
    def address(self) -> str | None:
        return str(self.place.address) if self.place is not None else None

    @property
    def marks(self) -> Sequence[Mark]:
        return self.session.marks

    def pids(self) -> tuple[int, ...]:
        return (self._pid, *_helpers.with_children(self._helpers)) if self._pid is not None else ()

    def cgroup_memory(self) -> CgroupMemory | None:
        return self._meter.memory() if self._meter is not None else None

    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        with self._explained():
            return self.session.wait(milestone, deadline_ns)

    def inside(self) -> Mapping[str, Json]:
        with self._explained():
            return self.session.inside(time.monotonic_ns() + _ANSWER_NS)

    def attest(self, deadline_ns: int) -> Attestation:
        with self._explained():
            return self.session.attest(deadline_ns)

    def calibrate(self, count: int, gap_ns: int = 0) -> Sequence[Mark]:
        with self._explained():
            return self.session.calibrate(count, time.monotonic_ns() + _ANSWER_NS, gap_ns)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Tell an error by what has become of the guest, where its kernel, QEMU or libvirt know more than the agent."""
        try:
            yield
        except TrialError as error:
            ended = error.ending == "workload-ended" and not self.session.find(OOM)
            own = ended or self.session.find("error")
            ending = None if own else self._ending(gone=not isinstance(error, TrialTimeout))
            if ending is not None:
                hint = ending.hint or error.hint
                raise type(error)(ending.message, hint=hint, ending=ending.kind) from error
            hint = _endings.agent_hint(error.message) or error.hint
            raise type(error)(error.message, hint=hint, ending=error.ending) from error

    def _ending(self, *, gone: bool) -> _endings.Ending | None:
        oom = self.session.find(OOM)
        ended = self._pidfd is not None and self._wait_for_exit(_LAST_NS if gone else 0)
        if ended and not self.spec.by_daemon:
            self._reaped.wait(_LAST_NS / 1e9)
        evidence = _endings.Evidence(
            console=self.console(),
            last=self.session.marks[-1].milestone,
            memory_bytes=self.memory_bytes,
            status=self._status,
            log=_connection.last_words(self.spec.name),
            paused=None if ended else self.paused(),
            ended=ended,
            kernel_spoke=self.session.find(KERNEL) is not None,
            killed=int(oom.detail or 1) if oom else 0,
        )
        return _endings.explain(evidence)

    def go(self, deadline_ns: int) -> None:
        requests.go(self.session, deadline_ns)

    def again(self, deadline_ns: int) -> Mark:
        mark = requests.again(self.session, deadline_ns)
        if self.session.find(READY) is None:  # it was ready in the guest that it was saved from
            self.session.marks.append(Mark(READY, mark.at_ns))
        return mark

    def touch(self, deadline_ns: int) -> int:
        return requests.touch(self.session, deadline_ns)

    def pause(self, deadline_ns: int) -> None:
        _saved.pause(self._connection, self.spec.name)

    def resume(self) -> None:
        _saved.resume(self._connection, self.spec.name)

    def save(self, file: Path, form: SavedForm) -> None:
        """Write it to a file; QEMU has ended then, while everything else of the guest stays until `stop`."""
        self._is_saved = True
        _saved.SAVE[form](self._connection, self.spec, file)
        if not self._wait_for_exit(0):
            self.end()
        self._wait_for_exit(_POWER_OFF_NS)

    def begin_from(self, file: Path | None, saved: Guest) -> None:
        """Start as the guest that was saved, which has written what it has written. `file` None: it is in a disk."""
        self.session.stdout += saved.session.stdout
        self.session.stderr += saved.session.stderr
        self.session.stdout_bytes, self.session.stderr_bytes = saved.session.stdout_bytes, saved.session.stderr_bytes
        self._saved_in = file
        self.start()

    def exec(self, argv: Sequence[str], timeout_ns: int) -> ExecResult:
        return ExecResult(*self.session.exec(argv, timeout_ns))

    def output(self) -> tuple[bytes, bytes]:
        return bytes(self.session.stdout), bytes(self.session.stderr)

    def console(self) -> bytes:
        """Return what the kernel wrote on the marks channel: its first messages, and a panic."""
        return bytes(self.session.parser.console)

    # -- stop ----------------------------------------------------------------------------------------------------

    def stop(self, deadline_ns: int) -> None:
        """Ask the agent, then wait, then destroy; remove the rest. Raises TrialError when something is left."""
        if self._stopped:
            return
        self._stopped = True
        self.session.mark(STOPPING)
        try:
            self._ask_to_end(deadline_ns)
        finally:
            self._end()
            self.session.mark(DELETED)
            if self.place is not None:
                self.place.close()
            self._wait_until_forgotten()
            self.session.close()
            self._release()
            if self._pidfd is not None:
                os.close(self._pidfd)

    def _ask_to_end(self, deadline_ns: int) -> None:
        """The console is open once the workload was ready or has ended; before that only `destroy` helps."""
        if self._is_saved or (self.session.find(READY) is None and self.session.find(EXITED) is None):
            return
        self.session.finish(deadline_ns)
        self._wait_for_exit(_POWER_OFF_NS if self.spec.kernel else _SYSTEM_OFF_NS)

    def _wait_for_exit(self, timeout_ns: int) -> bool:
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout_ns / 1e6))

    def _end(self) -> None:
        if not self._wait_for_exit(0):
            with contextlib.suppress(TrialError):
                self.end()
            if not self._wait_for_exit(_POWER_OFF_NS) and self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                self._wait_for_exit(_POWER_OFF_NS)
        _helpers.reap(self._helpers, _HELPER_NS)
        if self._meter is not None:
            self._meter.remove()
        shutil.rmtree(self.spec.sockets, ignore_errors=True)

    def _reap(self) -> None:
        """In the reader thread, as soon as QEMU has ended.

        QEMU is our child because this process is a sub-reaper while libvirt starts it. libvirt polls kill(pid, 0) until
        it is gone, which a zombie never is: without this, `destroy` would wait for its own time-out.
        """
        self.gone_ns = time.monotonic_ns()
        assert self._pid is not None
        assert self._pidfd is not None
        self.session.unwatch(self._pidfd)
        try:
            _, self._status, usage = os.wait4(self._pid, 0)
        except ChildProcessError:  # a daemon's child, not ours
            return
        finally:
            self._reaped.set()
        self.rusage = {"user_s": usage.ru_utime, "system_s": usage.ru_stime, "max_rss_bytes": usage.ru_maxrss * 1024}

    def _wait_until_forgotten(self) -> None:
        """libvirt notices the end a little later; its work would disturb the trial that follows."""
        deadline_ns = time.monotonic_ns() + _POWER_OFF_NS
        while not self.forgotten():
            if time.monotonic_ns() > deadline_ns:
                raise TrialError(f"libvirt: {self.spec.name}: still listed after its process has ended")
            time.sleep(0.005)

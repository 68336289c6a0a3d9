"""The host's side of one agent: a thread stamps marks as they arrive; requests go over the control channel.

Nothing but the reader thread runs between `requested` and `ready`, and it does nothing but poll, read and stamp.
"""

from __future__ import annotations

import bisect
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from harness.agent import answers
from harness.agent.marks import MarkParser, printable
from harness.errors import AgentError, TrialError, TrialTimeout
from harness.model.milestones import ANSWER, DRIVERS, EXEC, EXITED, INIT, OOM, READY, ROOT, RUNTIME_EXEC, Mark
from harness.model.records import Attestation

log = logging.getLogger(__name__)

OUTPUT_MAX_BYTES = 16 << 20
CALIBRATION_MAX = 20_000
REQUEST_MAX_BYTES = 8 << 20
"""Of a payload; `csrc/agent/control.c` has the same. The kernel takes no more than 6 MiB of arguments (execve(2))."""

_CHUNK_BYTES = 1 << 16
_LAST_WORDS_S = 0.5
_BYE_NS = 100_000_000
# Only these may come from inside: an image or a guest's root that writes `requested` or `deleted` changes nothing.
_FROM_INSIDE = frozenset({RUNTIME_EXEC, INIT, DRIVERS, ROOT, EXEC, READY, ANSWER, OOM, EXITED, "error"})
_SAMPLES = frozenset({"cal", "took"})
# How long an answer may be: twice what `csrc/agent/workload.c` keeps of a command's output; the longest argv and env.
_EXEC_MAX_BYTES, _ATTEST_MAX_BYTES, _INSIDE_MAX_BYTES, _SHORT_MAX_BYTES = 3 << 20, 8 << 20, 1 << 20, 4096
_Handler = Callable[[int, bytes, int], None]
_T = TypeVar("_T")


def _keep(stream: bytearray, chunk: bytes) -> None:
    stream += chunk[: max(0, OUTPUT_MAX_BYTES - len(stream))]


class AgentSession:
    """One agent. Channels are added as fds (`add_marks`, ...) or as listening sockets (`listen`); it owns them.

    Whatever arrives, memory stays bounded: the first mark of each name counts, output is cut at OUTPUT_MAX_BYTES.
    """

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.calibration: list[Mark] = []
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.stdout_bytes = 0
        self.stderr_bytes = 0
        self.parser = MarkParser()
        self._unanswered: str | None = None
        self._changed = threading.Condition()
        self._poll = select.epoll()
        self._handlers: dict[int, _Handler] = {}
        self._watchers: dict[int, Callable[[], None]] = {}
        self._owned: dict[int, socket.socket] = {}
        self._control: socket.socket | None = None
        self._marks_closed = False
        self._reader_ended = False
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._wake_r, select.EPOLLIN)
        self._thread = threading.Thread(target=self._read_loop, name="agent-reader", daemon=True)
        self._closed = False

    def start(self) -> None:
        """Start the reader; channels may be added before and after."""
        self._thread.start()

    def mark(self, milestone: str, detail: str = "") -> None:
        """Stamp a milestone of the host's own side now."""
        self._append(Mark(milestone, time.monotonic_ns(), detail))

    def add_marks(self, fd: int) -> None:
        self._register(fd, self._on_marks)

    def add_stdout(self, fd: int) -> None:
        def on_bytes(_fd: int, chunk: bytes, _at_ns: int) -> None:
            self.stdout_bytes += len(chunk)
            _keep(self.stdout, chunk)

        self._register(fd, on_bytes)

    def add_stderr(self, fd: int) -> None:
        def on_bytes(_fd: int, chunk: bytes, _at_ns: int) -> None:
            self.stderr_bytes += len(chunk)
            _keep(self.stderr, chunk)

        self._register(fd, on_bytes)

    def add_control(self, channel: socket.socket) -> None:
        with self._changed:
            self._control = channel
            self._changed.notify_all()

    def listen(self, server: socket.socket, on_connect: Callable[[socket.socket], None]) -> None:
        """Hand the first connection of a listening socket to `on_connect`, in the reader thread."""
        fd = server.fileno()
        self._owned[fd] = server

        def accept() -> None:
            channel, _ = server.accept()
            self._forget(fd)
            on_connect(channel)

        self.watch(fd, accept)

    def watch(self, fd: int, on_ready: Callable[[], None]) -> None:
        """Call `on_ready` in the reader thread when `fd` becomes readable; it must `unwatch` or consume it."""
        self._watchers[fd] = on_ready
        self._poll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Watch it no more; the fd stays open."""
        del self._watchers[fd]
        self._poll.unregister(fd)

    def own(self, channel: socket.socket) -> int:
        """Take over a connected socket; return its fd for `add_*`."""
        self._owned[channel.fileno()] = channel
        return channel.fileno()

    # -- the reader thread ---------------------------------------------------------------------------------------

    def _register(self, fd: int, handler: _Handler) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN | select.EPOLLHUP)

    def _read_loop(self) -> None:
        try:
            self._read_until_woken()
        finally:  # whoever waits shall learn of it
            with self._changed:
                self._reader_ended = True
                self._changed.notify_all()

    def _read_until_woken(self) -> None:
        while True:
            for fd, _event in self._poll.poll():
                at_ns = time.monotonic_ns()
                if fd == self._wake_r:
                    return
                self._read_one(fd, at_ns)

    def _read_one(self, fd: int, at_ns: int) -> None:
        if fd in self._watchers:
            self._watchers[fd]()
            return
        handler = self._handlers.get(fd)
        if handler is None:  # forgotten by a handler of the same round
            return
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except ConnectionResetError:  # QEMU was killed
            chunk = b""
        if chunk:
            handler(fd, chunk, at_ns)
            return
        self._forget(fd)
        if handler == self._on_marks:
            with self._changed:
                self._marks_closed = True
                self._changed.notify_all()

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._handlers.pop(fd, None)
        self._watchers.pop(fd, None)
        owner = self._owned.pop(fd, None)
        if owner is not None:
            owner.close()
        else:
            os.close(fd)

    def _on_marks(self, _fd: int, chunk: bytes, at_ns: int) -> None:
        for mark in self.parser.feed(chunk, at_ns):
            if mark.milestone in _SAMPLES:
                self._append_sample(mark)
            elif mark.milestone in _FROM_INSIDE and self.find(mark.milestone) is None:
                self._append(mark)

    def _append(self, mark: Mark) -> None:
        with self._changed:
            bisect.insort(self.marks, mark, key=lambda one: one.at_ns)  # some are told by others that came later
            self._changed.notify_all()

    def _append_sample(self, mark: Mark) -> None:
        is_number = mark.detail.isascii() and mark.detail.isdigit() and len(mark.detail) <= 20
        if is_number and len(self.calibration) < CALIBRATION_MAX:
            with self._changed:
                self.calibration.append(mark)
                self._changed.notify_all()

    # -- what backends and probes call ---------------------------------------------------------------------------

    def find(self, milestone: str) -> Mark | None:
        return next((mark for mark in self.marks if mark.milestone == milestone), None)

    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        """Return the mark; raises TrialTimeout at the deadline, AgentError when it cannot come any more."""
        with self._changed:
            while True:
                found = self.find(milestone)
                if found is not None:
                    return found
                self._raise_if_over(milestone)
                left_ns = deadline_ns - time.monotonic_ns()
                if left_ns <= 0:
                    raise TrialTimeout(f"{milestone}: not reached in time; last: {self._last()}", hint=self.tail())
                self._changed.wait(left_ns / 1e9)

    def _raise_if_over(self, milestone: str) -> None:
        error = self.find("error")
        if error is not None:
            raise AgentError(f"agent: {error.detail}", hint=self.tail(), ending="agent-failed")
        ended = self.find(EXITED)
        if ended is not None and milestone == READY:
            what = f"workload: ended with code {ended.detail} before it was ready"
            raise AgentError(what, hint=self.tail(), ending="workload-ended")
        if self._marks_closed or self._reader_ended:
            what = f"instance: gone before {milestone}; last: {self._last()}"
            raise AgentError(what, hint=self.tail(), ending="gone")

    def _last(self) -> str:
        return self.marks[-1].milestone if self.marks else "nothing"

    def tail(self) -> str | None:
        """Return the end of what the workload (else the guest's console) said, as a hint."""
        for name, stream in (("stderr", self.stderr), ("stdout", self.stdout), ("console", self.parser.console)):
            lines = [printable(line) for line in bytes(stream[-2000:]).strip().splitlines()]
            if lines:
                return f"{name}: " + " | ".join(lines[-3:])
        return None

    def request(self, line: str, deadline_ns: int, payload: bytes = b"", *, max_bytes: int = _SHORT_MAX_BYTES) -> bytes:
        """Send one request, return the body of its answer, of at most `max_bytes`. Raises AgentError, TrialTimeout.

        A request that failed or was interrupted leaves the channel out of step: no other one can be made after it.
        """
        control = self._await_control(line, deadline_ns)
        if self._unanswered is not None:
            raise AgentError(f"agent: {line}: not asked: '{self._unanswered}' was never answered", hint=self.tail())
        self._unanswered = line
        try:
            self._bound(deadline_ns)
            control.sendall(line.encode() + b"\n" + payload)
            worked, count = answers.parse_head(self._receive_line(deadline_ns))
            if count > max_bytes:
                raise ValueError(f"an answer of {count} bytes, more than {max_bytes}")
            body = self._receive(count, deadline_ns)
        except TimeoutError:
            raise TrialTimeout(f"agent: no answer to '{line}' in time; last: {self._last()}") from None
        except OSError as error:
            raise AgentError(f"agent: {line}: {self._last_words() or error}", hint=self.tail()) from error
        except ValueError as error:
            raise AgentError(f"agent: {line}: {error}", hint=self.tail()) from error
        self._unanswered = None
        if not worked:
            raise AgentError(f"agent: {line}: {printable(body)}")
        return body

    def _await_control(self, line: str, deadline_ns: int) -> socket.socket:
        with self._changed:
            self._changed.wait_for(
                lambda: self._control is not None or self._marks_closed or self._reader_ended,
                max(0, deadline_ns - time.monotonic_ns()) / 1e9,
            )
            if self._control is not None:
                return self._control
            if self._marks_closed or self._reader_ended:
                what = f"instance: gone before '{line}'; last: {self._last()}"
                raise AgentError(what, hint=self.tail(), ending="gone")
        raise TrialTimeout(f"control channel: not open in time for '{line}'")

    def _last_words(self) -> str | None:
        """Return why the agent ended, if it did: its mark comes by another channel, perhaps a moment later."""
        with self._changed:
            self._changed.wait_for(lambda: self._marks_closed or self.find("error") is not None, _LAST_WORDS_S)
        error = self.find("error")
        return error.detail if error else None

    def control(self) -> socket.socket:
        """Return the open control channel. Raises AgentError before it is open."""
        if self._control is None:
            raise AgentError("control channel: not open")
        return self._control

    def _bound(self, deadline_ns: int) -> None:
        left_ns = deadline_ns - time.monotonic_ns()
        if left_ns <= 0:
            raise TimeoutError
        self.control().settimeout(left_ns / 1e9)

    def _receive(self, count: int, deadline_ns: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._bound(deadline_ns)
            chunk = self.control().recv(min(count - len(data), _CHUNK_BYTES))
            if not chunk:
                raise OSError("the channel was closed")
            data += chunk
        return bytes(data)

    def _receive_line(self, deadline_ns: int) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) < answers.HEAD_MAX_BYTES:
            line += self._receive(1, deadline_ns)
        return line

    def inside(self, deadline_ns: int) -> Mapping[str, Any]:
        return self._checked("inside", answers.parse_inside, deadline_ns, _INSIDE_MAX_BYTES)

    def attest(self, deadline_ns: int) -> Attestation:
        """Return what the agent ran on; the environment comes back as a mapping."""
        return self._checked("attest", answers.parse_attestation, deadline_ns, _ATTEST_MAX_BYTES)

    def _checked(
        self, line: str, parse: Callable[[bytes], _T], deadline_ns: int, max_bytes: int, payload: bytes = b""
    ) -> _T:
        body = self.request(line, deadline_ns, payload, max_bytes=max_bytes)
        try:
            return parse(body)
        except ValueError as error:
            raise AgentError(f"agent: {line.partition(' ')[0]}: malformed answer: {error}") from error

    def calibrate(self, count: int, deadline_ns: int, gap_ns: int = 0) -> Sequence[Mark]:
        """Return pairs of marks: `cal` (one sample) and `took` (detail: ns that sending it took inside)."""
        first = len(self.calibration)
        self.request(f"calibrate {count} marks {gap_ns}", deadline_ns)
        return self.samples(first, 2 * count)

    def samples(self, first: int, count: int) -> Sequence[Mark]:
        """Return the samples since `first`: the answer comes by another channel and may overtake the last of them."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.calibration) >= first + count, _LAST_WORDS_S)
        return self.calibration[first:]

    def exec(self, argv: Sequence[str], timeout_ns: int) -> tuple[int, bytes, bytes]:
        """Run a command inside; return its code, stdout and stderr (of each the first MiB)."""
        payload = b"".join(os.fsencode(word) + b"\0" for word in argv)
        if payload.count(b"\0") != len(argv) or len(payload) > REQUEST_MAX_BYTES:
            why = f"a NUL byte inside, or more than {REQUEST_MAX_BYTES} bytes"
            raise AgentError(f"agent: exec: {argv[0][:80]!r}: {why}")
        deadline_ns = time.monotonic_ns() + timeout_ns + 5_000_000_000
        line = f"exec {timeout_ns} {len(payload)}"
        return self._checked(line, answers.parse_exec, deadline_ns, _EXEC_MAX_BYTES, payload)

    def finish(self, deadline_ns: int) -> None:
        """End the workload, wait for every byte of its output, then let the agent go. Raises TrialError."""
        expected = self._checked("stop", lambda body: answers.parse_numbers(body, 2), deadline_ns, _SHORT_MAX_BYTES)
        while (have := (self.stdout_bytes, self.stderr_bytes)) != expected:
            too_many = have[0] > expected[0] or have[1] > expected[1]
            if too_many or time.monotonic_ns() > deadline_ns:
                how = "more than were sent" if too_many else "incomplete"
                raise TrialError(f"output: {how}: {have} of {expected} bytes of stdout, stderr arrived")
            time.sleep(0.0005)
        dropped_bytes = sum(have) - len(self.stdout) - len(self.stderr)
        if dropped_bytes:
            log.warning("output: %d bytes dropped: %d of each stream are kept", dropped_bytes, OUTPUT_MAX_BYTES)
        try:
            self._bound(max(deadline_ns, time.monotonic_ns() + _BYE_NS))
            self.control().sendall(b"bye\n")
        except OSError as error:
            raise AgentError(f"agent: ended before it was let go: {self._last_words() or error}") from error

    def close(self) -> None:
        """Stop the reader and close every channel; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_w, b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for fd in list(self._handlers):
            self._forget(fd)
        if self._control is not None:
            self._control.close()
        for fd in list(self._owned):  # listeners that nobody connected to
            self._forget(fd)
        self._poll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

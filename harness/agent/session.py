"""The host's side of one agent: a thread stamps marks as they arrive; requests go over the control channel.

Nothing but the reader thread runs between `requested` and `ready`, and it does nothing but poll, read and stamp.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.agent.marks import MarkParser
from harness.errors import AgentError, TrialError, TrialTimeout
from harness.model.milestones import EXITED, READY, Mark
from harness.model.records import Attestation

OUTPUT_MAX_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16
_Handler = Callable[[int, bytes, int], None]


class AgentSession:
    """One agent. Channels are added as fds (`add_marks`, ...) or as listening sockets (`listen`); it owns them."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.calibration: list[Mark] = []
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.dropped_bytes = 0
        self.parser = MarkParser()
        self._changed = threading.Condition()
        self._poll = select.epoll()
        self._handlers: dict[int, _Handler] = {}
        self._watchers: dict[int, Callable[[], None]] = {}
        self._owned: dict[int, socket.socket] = {}
        self._control: socket.socket | None = None
        self._marks_closed = False
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
        self._register(fd, lambda _fd, chunk, _at: self._keep(self.stdout, chunk))

    def add_stderr(self, fd: int) -> None:
        self._register(fd, lambda _fd, chunk, _at: self._keep(self.stderr, chunk))

    def add_control(self, channel: socket.socket) -> None:
        with self._changed:
            self._control = channel
            self._changed.notify_all()

    def add_first_byte(self, fd: int, milestone: str) -> None:
        """Stamp `milestone` when the first byte arrives; the text itself is dropped."""

        def on_bytes(_fd: int, _chunk: bytes, at_ns: int) -> None:
            if not any(mark.milestone == milestone for mark in self.marks):
                self._append(Mark(milestone, at_ns))

        self._register(fd, on_bytes)

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
            self._append(mark)

    def _append(self, mark: Mark) -> None:
        with self._changed:
            (self.calibration if mark.milestone in {"cal", "took"} else self.marks).append(mark)
            self._changed.notify_all()

    def _keep(self, stream: bytearray, chunk: bytes) -> None:
        room = max(0, OUTPUT_MAX_BYTES - len(stream))
        stream += chunk[:room]
        self.dropped_bytes += len(chunk) - len(chunk[:room])

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
            raise AgentError(f"agent: {error.detail}", hint=self.tail())
        ended = self.find(EXITED)
        if ended is not None and milestone == READY:
            raise AgentError(f"workload: ended with code {ended.detail} before it was ready", hint=self.tail())
        if self._marks_closed:
            raise AgentError(f"instance: gone before {milestone}; last: {self._last()}", hint=self.tail())

    def _last(self) -> str:
        return self.marks[-1].milestone if self.marks else "nothing"

    def tail(self) -> str | None:
        """Return the end of what the workload (else the guest's console) said, as a hint."""
        for name, stream in (("stderr", self.stderr), ("stdout", self.stdout), ("console", self.parser.console)):
            lines = bytes(stream[-2000:]).decode("utf-8", "replace").strip().splitlines()
            if lines:
                return f"{name}: " + " | ".join(lines[-3:])
        return None

    def request(self, line: str, deadline_ns: int, payload: bytes = b"") -> bytes:
        """Send one request, return the body of its answer. Raises AgentError, TrialTimeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._control is not None, max(0, deadline_ns - time.monotonic_ns()) / 1e9)
        if self._control is None:
            raise TrialTimeout(f"control channel: not open in time for '{line}'")
        self._bound(deadline_ns)
        try:
            self._control.sendall(line.encode() + b"\n" + payload)
            head = self._receive_line(deadline_ns).split()
            body = self._receive(int(head[1]), deadline_ns)
        except TimeoutError:
            raise TrialTimeout(f"agent: no answer to '{line}' in time; last: {self._last()}") from None
        except (OSError, ValueError, IndexError) as error:
            raise AgentError(f"agent: {line}: {error}", hint=self.tail()) from error
        if head[0] != "OK":
            raise AgentError(f"agent: {line}: {body.decode('utf-8', 'replace')}")
        return body

    def control(self) -> socket.socket:
        """Return the open control channel. Raises AgentError before it is open."""
        if self._control is None:
            raise AgentError("control channel: not open")
        return self._control

    def _bound(self, deadline_ns: int) -> None:
        assert self._control is not None
        self._control.settimeout(max(0.001, (deadline_ns - time.monotonic_ns()) / 1e9))

    def _receive(self, count: int, deadline_ns: int) -> bytes:
        assert self._control is not None
        data = bytearray()
        while len(data) < count:
            self._bound(deadline_ns)
            chunk = self._control.recv(min(count - len(data), _CHUNK_BYTES))
            if not chunk:
                error = self.find("error")
                raise OSError(error.detail if error else "the channel was closed")
            data += chunk
        return bytes(data)

    def _receive_line(self, deadline_ns: int) -> str:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._receive(1, deadline_ns)
        return line.decode()

    def inside(self, deadline_ns: int) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = json.loads(self.request("inside", deadline_ns))
        return answer

    def attest(self, deadline_ns: int) -> Attestation:
        """Return what the agent ran on; the environment comes back as a mapping."""
        answer = json.loads(self.request("attest", deadline_ns))
        env = dict(entry.split("=", 1) for entry in answer.pop("env"))
        return Attestation(argv=tuple(answer.pop("argv")), env=env, **answer)

    def calibrate(self, count: int, deadline_ns: int) -> Sequence[Mark]:
        """Return pairs of marks: `cal` (one sample) and `took` (detail: ns that sending it took inside)."""
        first = len(self.calibration)
        self.request(f"calibrate {count}", deadline_ns)
        return self.calibration[first:]

    def exec(self, argv: Sequence[str], timeout_ns: int) -> tuple[int, bytes, bytes]:
        """Run a command inside; return its code, stdout and stderr."""
        payload = b"".join(os.fsencode(word) + b"\0" for word in argv)
        deadline_ns = time.monotonic_ns() + timeout_ns + 5_000_000_000
        body = self.request(f"exec {timeout_ns} {len(payload)}", deadline_ns, payload)
        head, _, rest = body.partition(b"\n")
        code, out_bytes, err_bytes = map(int, head.split())
        return code, rest[:out_bytes], rest[out_bytes : out_bytes + err_bytes]

    def finish(self, deadline_ns: int) -> None:
        """End the workload, wait for every byte of its output, then let the agent go. Raises TrialError."""
        expected = [int(word) for word in self.request("stop", deadline_ns).split()]
        while [len(self.stdout), len(self.stderr)] != expected and not self.dropped_bytes:
            if time.monotonic_ns() > deadline_ns:
                have = [len(self.stdout), len(self.stderr)]
                raise TrialError(f"output: incomplete: {have} of {expected} bytes of stdout, stderr arrived")
            time.sleep(0.0005)
        assert self._control is not None
        self._control.sendall(b"bye\n")

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

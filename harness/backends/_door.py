"""Where the agent in somebody else's container fetches its open files: a directory that is mounted there.

The built-in runtime hands them down by inheritance. An engine's daemon cannot, so the agent, started as
`/.harness/agent --connect /.harness/socket`, gets them over a Unix socket (SCM_RIGHTS, unix(7)): the same pipes and the
same control channel as everywhere else, and from then on nothing is different. One connection is taken, the first; the
kernel says which process made it (SO_PEERCRED), whatever pid namespace that is in.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.agent.program import sealed_memfd
from harness.agent.session import AgentSession
from harness.errors import BackendError

INSIDE = "/.harness"
"""The directory as containers see it, read-only."""
ARGV = (f"{INSIDE}/agent", "--connect", f"{INSIDE}/socket")

_CREDENTIALS = struct.Struct("iII")


class Door:
    """One instance's directory, and our ends of its channels in `session`. Raises: BackendError.

    `owner` may connect besides root: the user of a rootless engine.
    """

    def __init__(self, directory: Path, agent: Path, session: AgentSession, owner: int = 0) -> None:
        self.directory = directory
        self.pid: int | None = None
        self.pidfd: int | None = None
        self._lock = threading.Lock()
        self._abandoned = False
        self._listening = False
        with ExitStack() as undo:
            try:
                directory.mkdir(mode=0o755)
                undo.callback(shutil.rmtree, directory, ignore_errors=True)
                os.link(agent, directory / "agent")
                server = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                server.bind(str(directory / "socket"))
                os.chown(directory / "socket", owner, -1)
                (directory / "socket").chmod(0o600)
                server.listen(1)
            except OSError as error:
                raise BackendError(f"socket: {directory}: {error.strerror}") from error
            self._theirs = ExitStack()
            self._server = server
            self._session = session
            undo.pop_all()

    def open(self, stdin: int, workload: bytes, tree: int) -> None:
        """Make the channels and let the agent in from now on; `stdin` and `tree` stay the caller's."""
        ours, control = socket.socketpair()
        self._theirs.callback(control.close)
        writers = []
        for add in (self._session.add_stdout, self._session.add_stderr, self._session.add_marks):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            self._theirs.callback(os.close, writer)
            add(reader)
            writers.append(writer)
        self._session.add_control(ours)
        spec = sealed_memfd("spec", workload)
        self._theirs.callback(os.close, spec)
        fds = (stdin, writers[0], writers[1], spec, writers[2], control.fileno(), tree)
        self._listening = True
        self._session.listen(self._server, lambda channel: self._serve(channel, fds))

    def _serve(self, channel: socket.socket, fds: Sequence[int]) -> None:
        with channel, self._lock:
            if self._abandoned:
                return
            size = _CREDENTIALS.size
            self.pid, _, _ = _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            try:
                self.pidfd = os.pidfd_open(self.pid)
                socket.send_fds(channel, [b"\0"], fds)
            except OSError:  # it has ended already: closing our copies is what tells it
                pass
            self._theirs.close()

    def abandon(self) -> None:
        """Nobody will come any more: close what they would have got, so that whoever waits for a mark learns of it."""
        with self._lock:
            self._abandoned = True
            self._theirs.close()

    def close(self) -> None:
        """Remove the directory; a socket that listens is the session's."""
        self.abandon()
        if not self._listening:
            self._server.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        shutil.rmtree(self.directory, ignore_errors=True)

"""Leave work to a process of its own in the background: it tells once whether it began well, then goes on alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress

from harness.errors import HarnessError

Begun = Callable[[], None]


class _Told(HarnessError):
    """What the process in the background told before it ended."""


def detached(work: Callable[[Begun], object]) -> None:
    """Do `work` in a child that leaves our session; return when it calls what it is given. Raises: HarnessError.

    A fork, and no new interpreter: the child goes on with what was decided, and keeps the locks that we hold. It has no
    stdin, stdout or stderr of ours, so that nobody waits for it who reads ours to their end.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = json.loads(file.read() or b'{"message": "container: the process that watches it was killed"}')
    if told.get("message"):
        error = _Told(told["message"], hint=told.get("hint"))
        error.exit_code = told.get("exit_code", 70)
        raise error


def _child(work: Callable[[Begun], object], writer: int) -> None:
    """Never returns: what the caller would do next is the parent's."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        _close_inherited()
        told = _Message(writer)
        try:
            work(told.begun)
            code = 0
        except HarnessError as error:
            told.failed(error.message, error.hint, error.exit_code)
        except BaseException as error:  # noqa: BLE001  (told to the parent, as the bug that it is)
            told.failed(f"container: {type(error).__name__}: {error}", "this is a bug in harness", 70)
    finally:
        os._exit(code)


def _close_inherited() -> None:
    """Close what our caller left open to us: somebody may wait for its end. What Python opens is not inheritable."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError):  # the listing's own is closed by now
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.close(int(name))


class _Message:
    """The one message; after it nobody listens."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def begun(self) -> None:
        self._send({})

    def failed(self, message: str, hint: str | None, exit_code: int) -> None:
        self._send({"message": message, "hint": hint, "exit_code": exit_code})

    def _send(self, document: dict[str, object]) -> None:
        if self._fd >= 0:
            os.write(self._fd, json.dumps(document).encode())
            os.close(self._fd)
            self._fd = -1

"""An instance that takes all it can while a block runs, and a place for what it sends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Sequence

from harness.errors import HarnessError, TrialError
from harness.host.netns import RunNetwork
from harness.interfaces import Instance
from harness.studies import _pair

WARM_MS = 300
_MAKE_READY_MS = {"memory": 700, "disk": 300}
"""What the disturbed one may take, in a slow guest, to have its memory or file there before its window begins."""
_GULP_BYTES = 1 << 24
_ANSWER_S = 30.0


def spinners() -> str:
    """Return how many processes spin in an antagonist: two for each CPU of the host."""
    return str(2 * (os.cpu_count() or 1))


def press(instance: Instance, kind: str, milliseconds: int, where: str) -> tuple[int, int]:
    """Have an instance disturb for so long; return what it got done, and what it was refused. Raises: TrialError."""
    made, refused = _pair.ask(instance, "press", kind, str(milliseconds), where, bound_ms=milliseconds)
    return made, refused


class Beside:
    """A block during which the other instance disturbs: begun before it, and outliving it."""

    def __init__(
        self, other: Instance, kind: str, window_ms: int, where: str | None = None, *, warm_ms: int = WARM_MS
    ) -> None:
        self._other, self._kind, self._warm_ms = other, kind, warm_ms
        self._where = spinners() if where is None else where
        self._milliseconds = window_ms + 2 * warm_ms + _MAKE_READY_MS.get(kind, 0)
        self._error: HarnessError | None = None
        self.result = (0, 0)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = press(self._other, self._kind, self._milliseconds, self._where)
        except HarnessError as error:
            self._error = error

    def __enter__(self) -> Beside:
        self._thread.start()
        time.sleep(self._warm_ms / 1000)
        return self

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error


def work_of_all(instances: Sequence[Instance], window_ms: int) -> list[int]:
    """Return what each of several instances got done when all spun at once. Raises: TrialError."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Beside(one, "cpu", window_ms, warm_ms=0)) for one in instances]
    return [one.result[0] for one in running]


class Sink:
    """Takes every byte that is sent to it over a run's bridge, and forgets it: `where` is ADDRESS:PORT.

    The kernel copies none of it (tcp(7), MSG_TRUNC), so that it costs the host little more than the packets do.
    """

    def __init__(self, network: RunNetwork) -> None:
        with network.namespace.entered():
            self._socket = socket.create_server((str(network.gateway), 0))
        address, port = self._socket.getsockname()
        self.where = f"{address}:{port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                peer, _ = self._socket.accept()
                with peer:
                    peer.settimeout(_ANSWER_S)
                    _swallow(peer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(_ANSWER_S)
        if self._thread.is_alive():
            raise TrialError("sink: somebody still sends")


def _swallow(peer: socket.socket) -> None:
    nothing = memoryview(bytearray(_GULP_BYTES))
    with contextlib.suppress(OSError):  # the sender is gone, or silent for long
        while peer.recv_into(nothing, 0, socket.MSG_TRUNC):
            pass

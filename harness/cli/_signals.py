"""Ctrl-C, SIGTERM, SIGHUP during a run: the first ends it in order, the second is told to wait, the third gives up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, Self

EXIT_INTERRUPTED = 130
LIVE_LINE = "\r\x1b[K"
"""Back to the first column, and empty the line."""
_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], object] | int | None


class Signals:
    """A context in which the first signal raises KeyboardInterrupt, but not while the run cleans up (`hold`).

    What the caller of the harness ignores stays ignored: SIGHUP under nohup, Ctrl-C for a shell's background job.
    """

    def __init__(self) -> None:
        self._asked = False
        self._warned = False
        self._held = False
        self._pending = False
        self._former: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> Self:
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From now on the first signal is only noted: cleaning up must not end half way."""
        self._held = True

    def release(self) -> None:
        """Act on signals again. Raises: KeyboardInterrupt for one that came meanwhile."""
        self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._asked:
            self._asked = True
            _say("interrupted: cleaning up")
            self._pending = self._held
            if not self._held:
                raise KeyboardInterrupt
        elif not self._warned:
            self._warned = True
            _say("still cleaning up; once more gives up and leaves the rest to: harness clean")
        else:
            _give_up()


def _give_up() -> NoReturn:
    _say("gave up; what is left is found by: harness clean")
    os._exit(EXIT_INTERRUPTED)


def _say(text: str) -> None:
    """Write to stderr past Python's buffers, in which the signal may have come; on a terminal over the live line."""
    with suppress(OSError):
        os.write(2, f"{LIVE_LINE if os.isatty(2) else ''}{text}\n".encode())

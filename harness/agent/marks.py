"""Read marks out of the bytes of a channel that may also carry console text. Pure: no clock, no fd."""

from __future__ import annotations

from collections.abc import Sequence

from harness.model.milestones import Mark

START = 0x1E
LINE_MAX_BYTES = 1024


class MarkParser:
    """Feed it chunks as they come. `console` collects what is no mark, up to `console_max_bytes`."""

    def __init__(self, console_max_bytes: int = 1 << 20) -> None:
        self.console = bytearray()
        self._console_max_bytes = console_max_bytes
        self._line: bytearray | None = None

    def feed(self, chunk: bytes, at_ns: int) -> list[Mark]:
        """Return the marks that `chunk` completes, stamped `at_ns`."""
        marks = []
        at = 0
        while at < len(chunk):
            if self._line is None:
                start = chunk.find(START, at)
                self._keep(chunk[at : start if start >= 0 else len(chunk)])
                if start < 0:
                    break
                self._line, at = bytearray(), start + 1
            end = chunk.find(b"\n", at)
            self._line += chunk[at : end if end >= 0 else len(chunk)]
            if end < 0 and len(self._line) <= LINE_MAX_BYTES:
                break
            mark = _parse(bytes(self._line), at_ns)
            if mark is None:
                self._keep(bytes(self._line))
            else:
                marks.append(mark)
            self._line = None
            at = end + 1 if end >= 0 else len(chunk)
        return marks

    def _keep(self, text: bytes) -> None:
        self.console += text[: max(0, self._console_max_bytes - len(self.console))]


def _parse(line: bytes, at_ns: int) -> Mark | None:
    """Return the mark `NAME INSIDE_NS [DETAIL]`, or None when it is none."""
    words = line.decode("utf-8", "replace").split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        return None
    return Mark(words[0], at_ns, words[2] if len(words) == 3 else "", int(words[1]))


def delivery_ns(marks: Sequence[Mark], *, same_clock: bool) -> list[int]:
    """Return how long each mark took from its sender to the host, in ns.

    With the same clock on both sides that is a difference; with a guest's clock only the spread above the quickest
    mark of the series can be known, so the quickest counts as 0.
    """
    delays = [mark.at_ns - mark.inside_ns for mark in marks if mark.inside_ns is not None]
    base = 0 if same_clock or not delays else min(delays)
    return [delay - base for delay in delays]

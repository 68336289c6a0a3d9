"""Read marks out of the bytes of a channel that may also carry console text. Pure: no clock, no fd.

In a guest anything may be written to that channel, by its root as well: whatever comes, memory stays bounded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.model.milestones import Mark

START = 0x1E
LINE_MAX_BYTES = 1024

# 20 digits hold every number of 64 bits.
_MARK = re.compile(rb"([a-z][a-z.]{0,31}) ([0-9]{1,20})(?:/([0-9]{1,20}))?(?: (.*))?", re.DOTALL)
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09}


def printable(text: bytes) -> str:
    """Return text that can be shown on a terminal: what an image or a guest wrote must not steer it."""
    return text.decode("utf-8", "replace").translate(_CONTROLS)


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
            mark = self._take_line(bytes(self._line), at_ns)
            if mark is not None:
                marks.append(mark)
            self._line = None
            at = end + 1 if end >= 0 else len(chunk)
        return marks

    def _take_line(self, line: bytes, at_ns: int) -> Mark | None:
        """A mark holds no START: one that does was broken off by another, so the last one counts."""
        text, _, last = line.rpartition(bytes([START]))
        mark = _parse(last, at_ns)
        self._keep(text if mark else line)
        return mark

    def _keep(self, text: bytes) -> None:
        self.console += text[: max(0, self._console_max_bytes - len(self.console))]


def _parse(line: bytes, at_ns: int) -> Mark | None:
    """Return the mark `NAME INSIDE_NS[/TICKS] [DETAIL]`, or None when it is none."""
    match = _MARK.fullmatch(line) if len(line) <= LINE_MAX_BYTES else None
    if match is None:
        return None
    name, inside_ns, ticks, detail = match.groups()
    return Mark(name.decode(), at_ns, printable(detail or b""), int(inside_ns), None if ticks is None else int(ticks))


def delivery_ns(marks: Sequence[Mark], *, same_clock: bool) -> list[int]:
    """Return how long each mark took from its sender to the host, in ns.

    With the same clock on both sides that is a difference; with a guest's clock only the spread above the quickest
    mark of the series can be known, so the quickest counts as 0.
    """
    delays = [mark.at_ns - mark.inside_ns for mark in marks if mark.inside_ns is not None]
    base = 0 if same_clock or not delays else min(delays)
    return [delay - base for delay in delays]

"""What a container wrote, line by line with its time and stream, in one file that is only ever appended to.

The form is that of Kubernetes' runtimes (CRI): `2026-01-31T12:00:00.000000000Z stdout F text`; `P` is a piece of a line
that goes on. Tools that read such logs read these.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 1 << 20
_FOLLOW_S = 0.05


def _stamp() -> bytes:
    now_ns = time.time_ns()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now_ns // 10**9))}.{now_ns % 10**9:09}Z".encode()


class LogWriter:
    """Appends to a log; each call is one write(2), so that a reader never sees half of what belongs together."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._lost_bytes = 0

    def write(self, stream: str, data: bytes) -> None:
        """Append what was read from `stdout` or `stderr`.

        A full disk ends no container: what could not be written is counted, and told in the log once there is room.
        """
        lost = f"{self._lost_bytes} bytes were lost here: the log could not be written".encode()
        try:
            if self._lost_bytes:
                os.write(self._fd, b"\n" + _stamp() + b" stderr F harness: " + lost + b"\n")
                self._lost_bytes = 0
            self._append(_stamp() + b" " + stream.encode(), data)
        except OSError:
            self._lost_bytes += len(data)

    def _append(self, head: bytes, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        entries = [head + b" F " + line + b"\n" for line in lines]
        entries += [head + b" P " + rest + b"\n"] if rest else []
        os.write(self._fd, b"".join(entries))

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `text` has its line's end where it has one."""

    time: str
    stream: str
    text: bytes


def _parse(line: bytes) -> Entry | None:
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[2] not in {b"F", b"P"}:
        return None  # torn by a full disk or a crash
    return Entry(parts[0].decode(errors="replace"), parts[1].decode(errors="replace"),
                 parts[3] + (b"\n" if parts[2] == b"F" else b""))  # fmt: skip


def _lines(path: Path, is_over: Callable[[], bool] | None) -> Iterator[bytes]:
    """Yield whole lines; with `is_over` wait for more until it says that nothing more comes."""
    rest = b""
    with path.open("rb") as file:
        while True:
            over = is_over is None or is_over()  # asked before the last read: what is written meanwhile is read
            while data := file.read(_BLOCK_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
            if over:
                return
            time.sleep(_FOLLOW_S)


def _last(entries: Iterator[Entry], count: int) -> list[Entry]:
    """Return the entries of the last `count` lines; pieces of a line count as one."""
    lines: deque[list[Entry]] = deque(maxlen=max(count, 1))
    open_line: dict[str, list[Entry]] = {}
    for entry in entries:
        line = open_line.get(entry.stream)
        if line is None:
            line = open_line[entry.stream] = []
            lines.append(line)
        line.append(entry)
        if entry.text.endswith(b"\n"):
            del open_line[entry.stream]
    return [entry for line in lines for entry in line] if count else []


def read(path: Path, *, tail: int | None = None, is_over: Callable[[], bool] | None = None) -> Iterator[Entry]:
    """Yield the entries of a log, all or those of the last `tail` lines; with `is_over`, what comes until then as well.

    A log that does not exist has none.
    """
    if not path.exists():
        return
    if tail is None:
        yield from (entry for line in _lines(path, is_over) if (entry := _parse(line)))
        return
    size_bytes = path.stat().st_size
    seen = [entry for line in path.read_bytes()[:size_bytes].split(b"\n") if (entry := _parse(line))]
    yield from _last(iter(seen), tail)
    if is_over is not None:
        skipped = len(seen)
        for entry in (entry for line in _lines(path, is_over) if (entry := _parse(line))):
            if skipped:
                skipped -= 1
            else:
                yield entry

"""Bytes that come once: read ahead by another thread, and looked at by tarfile as if they were a file."""

from __future__ import annotations

import queue
import tarfile
import threading
import weakref
from collections.abc import Callable, Sequence

_AHEAD = 4  # chunks
_POLL_S = 0.05


class Ahead:
    """What `read` returns, chunk by chunk until an empty one, read by a thread: zlib and hashes run beside the writing.

    An exception of `read` comes out at its place. The thread ends with the last chunk, or with this object.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._queue: queue.Queue[bytes | Exception] = queue.Queue(_AHEAD)
        self._last: bytes | Exception | None = None
        stop = threading.Event()
        weakref.finalize(self, stop.set)
        threading.Thread(target=_pump, args=(read, self._queue, stop), daemon=True).start()

    def __call__(self) -> bytes:
        item = self._queue.get() if self._last is None else self._last
        if isinstance(item, Exception):
            self._last = item
            raise item
        if not item:
            self._last = item
        return item


def _pump(read: Callable[[], bytes], out: queue.Queue[bytes | Exception], stop: threading.Event) -> None:
    item: bytes | Exception = b"-"
    while item and not isinstance(item, Exception):
        try:
            item = read()
        except Exception as error:  # noqa: BLE001 - raised where the bytes are wanted
            item = error
        while not stop.is_set():
            try:
                out.put(item, timeout=_POLL_S)
                break
            except queue.Full:
                continue
        if stop.is_set():
            return


class Forward:
    """A file for tarfile that cannot go back; `chunks` returns the next bytes, empty at the end."""

    def __init__(self, chunks: Callable[[], bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0
        self._before = 0  # bytes before this chunk

    def tell(self) -> int:
        return self._before + self._at

    def seek(self, position: int) -> None:
        """Skip to a position ahead, or to the end. Raises: tarfile.ReadError for one behind."""
        if position < self.tell():
            raise tarfile.ReadError("the archive leads backwards")
        while (left := position - self.tell()) > 0 and self._fill():
            self._at += min(left, len(self._chunk) - self._at)

    def read(self, count: int) -> bytes:
        """Return that many bytes, fewer only at the end."""
        data = self._take(count)
        if len(data) == count:
            return data
        parts = [data]
        while (count := count - len(parts[-1])) > 0 and self._fill():
            parts.append(self._take(count))
        return b"".join(parts)

    def skip_rest(self) -> None:
        while self._fill():
            self._at = len(self._chunk)

    def _take(self, count: int) -> bytes:
        data = self._chunk[self._at : self._at + count]
        self._at += len(data)
        return data

    def _fill(self) -> bool:
        if self._at == len(self._chunk):
            self._before += self._at
            self._chunk, self._at = self._chunks(), 0
        return self._at < len(self._chunk)


class Content:
    """The content of one entry, which must be read before the next."""

    def __init__(self, source: Forward, size_bytes: int) -> None:
        self._source = source
        self._left = size_bytes

    def read(self, count: int = -1) -> bytes:
        """Return that many bytes, fewer only at the end. Raises: tarfile.ReadError when the archive ends before."""
        count = self._left if count < 0 else min(count, self._left)
        data = self._source.read(count)
        self._left -= len(data)
        if len(data) < count:
            raise tarfile.ReadError("unexpected end of data")
        return data


def sparse_extents(extents: Sequence[tuple[int, int]], size_bytes: int) -> list[tuple[int, int]]:
    """Return the (offset, size) of the data in a sparse file; unused places in its map, of size 0, are left out.

    Raises: tarfile.ReadError for extents that overlap, go back or reach beyond the end.
    """
    end = 0
    used = [(offset, count) for offset, count in extents if count]
    for offset, count in used:
        if offset < end or count < 0 or offset + count > size_bytes:
            raise tarfile.ReadError(f"sparse file with an extent of {count} bytes at {offset}, out of its place")
        end = offset + count
    return used

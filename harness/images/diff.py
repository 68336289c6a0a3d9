"""What a container wrote to the writable layer of an overlay, as an OCI layer.

A whiteout becomes `.wh.NAME`, an opaque directory gets `.wh..wh..opq`; attributes of overlay itself stay behind.
Sockets are left out, as Docker does: they are worth nothing without the process that made them.
Source: image-spec layer.md ("Whiteouts"); Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import ImageError
from harness.images import oci
from harness.images.merged import Merged, is_opaque, is_whiteout
from harness.images.oci import Layer
from harness.images.pack import LayerWriter
from harness.images.store import BlobWriter, Store
from harness.images.tree import Entry, walk

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


def pack_upper(store: Store, upper: Path, lowers: Sequence[Path], clamp_s: int | None) -> Layer | None:
    """Store the upper directory of an overlay over `lowers` (lowest first) as a layer; None when nothing changed.

    Times later than `clamp_s` become it. Raises: ImageError.
    """
    below, base = Merged(lowers), os.fsencode(upper)
    count = 0

    def write(out: BlobWriter) -> None:
        nonlocal count
        with LayerWriter(out, None, clamp_s) as writer:
            _Diff(base, below, writer).write(upper)
            count = writer.count

    blob = store.add_blob(oci.LAYER, write)
    return Layer(blob, blob.digest) if count else None


@dataclass(slots=True)
class _Diff:
    base: bytes
    below: Merged
    writer: LayerWriter
    _first: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def write(self, upper: Path) -> None:
        self._root(upper)
        for entry in walk(upper):
            try:
                self._entry(entry)
            except OSError as error:
                raise ImageError(f"layer: /{os.fsdecode(entry.path)}: {error.strerror}") from error

    def _root(self, upper: Path) -> None:
        """The root itself is told only where its owner or mode changed: it always has another time."""
        now, before = upper.lstat(), self.below.status(()) if self.below.places(()) else None
        if before is not None and _identity(now) != _identity(before):
            self.writer.copy(self.base, Entry(b".", now), None)

    def _entry(self, entry: Entry) -> None:
        head, _, name = entry.path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            raise ImageError(f"layer: /{os.fsdecode(entry.path)}: a name that means a whiteout: no layer can hold it")
        if is_whiteout(entry.status):
            if self.below.status(tuple(entry.path.split(b"/"))) is not None:
                self.writer.file(b"/".join(filter(None, (head, _WHITEOUT + name))), b"")
        elif not stat.S_ISSOCK(entry.status.st_mode):
            self.writer.copy(self.base, entry, self._first_name(entry))
            if stat.S_ISDIR(entry.status.st_mode) and is_opaque(self.base + b"/" + entry.path):
                self.writer.file(entry.path + b"/" + _OPAQUE, b"")

    def _first_name(self, entry: Entry) -> bytes | None:
        if entry.status.st_nlink == 1 or stat.S_ISDIR(entry.status.st_mode):
            return None
        first = self._first.setdefault((entry.status.st_dev, entry.status.st_ino), entry.path)
        return None if first == entry.path else first


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

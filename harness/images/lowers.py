"""What the layers below show at a path: looked up layer by layer, as the kernel does when they are mounted."""

# Names in a tree are bytes, which pathlib does not take.
# Names in a tree are bytes, which pathlib does not take.
# ruff: noqa: PTH208
from __future__ import annotations

import enum
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.images.confine import Names
from harness.images.whiteouts import Form, is_opaque, is_whiteout


class _Seen(enum.Enum):
    ABSENT = enum.auto()  # this layer says nothing: ask the next
    DIRECTORY = enum.auto()
    OPAQUE = enum.auto()  # a directory; nothing below it counts
    HIDDEN = enum.auto()  # a whiteout, or no directory


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a lower layer: its path on this machine, and its lstat."""

    path: bytes
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


class Lowers:
    """Unpacked layers, lowest first, which nobody changes while this object lives."""

    def __init__(self, directories: Sequence[Path] = (), form: Form = Form.OVERLAY) -> None:
        self._bases = [os.fsencode(path) for path in reversed(directories)]
        self._form = form
        self._seen: dict[tuple[bytes, Names], _Seen] = {}

    def find(self, names: Names) -> Found | None:
        """Return what is seen at a path without links in it (but perhaps at its end); None when there is nothing."""
        for base in self._bases:
            above = [self._directory(base, names[:depth]) for depth in range(len(names))]
            if _Seen.HIDDEN in above:
                return None
            if _Seen.ABSENT not in above:
                path = b"/".join((base, *names))
                status = _lstat(path)
                if names and is_whiteout(self._form, path, status):
                    return None
                if status is not None:
                    return Found(path, status)
            if _Seen.OPAQUE in above:
                return None
        return None

    def root_names(self) -> list[bytes]:
        """Return all names that some layer has in its root, whiteouts among them."""
        return sorted({name for base in self._bases for name in os.listdir(base)})

    def _directory(self, base: bytes, names: Names) -> _Seen:
        """Return what one layer says of a directory; of one below a directory that it has not: ABSENT."""
        known = self._seen.get((base, names))
        if known is None:
            known = self._seen[(base, names)] = self._look(base, names)
        return known

    def _look(self, base: bytes, names: Names) -> _Seen:
        if names and self._directory(base, names[:-1]) in {_Seen.ABSENT, _Seen.HIDDEN}:
            return _Seen.ABSENT
        path = b"/".join((base, *names))
        status = _lstat(path)
        if names and is_whiteout(self._form, path, status):
            return _Seen.HIDDEN
        if status is None:
            return _Seen.ABSENT
        if not stat.S_ISDIR(status.st_mode):
            return _Seen.HIDDEN
        return _Seen.OPAQUE if is_opaque(self._form, path) else _Seen.DIRECTORY


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None

"""The files of a stage or an image as a source of COPY --from: found by Docker's patterns in its merged tree."""

from __future__ import annotations

import os
import re
from io import BufferedReader

from harness.images.confine import Names
from harness.images.context import ContextError, Found, translate
from harness.images.merged import Merged


class TreeFiles:
    """A merged tree. Paths are relative to its root, links on the way followed inside it."""

    keeps_owners = True

    def __init__(self, tree: Merged, what: str) -> None:
        self._tree = tree
        self._what = what

    def find(self, source: str) -> list[Found]:
        """Return the paths that one source of COPY means ("" is the root itself). Raises: ContextError for none."""
        wanted = os.path.normpath("/" + source.lstrip("/")).strip("/")
        matches = self._matches(wanted) if set(wanted) & set("*?[\\") else [os.fsencode(wanted)]
        found = [(path, self._tree.canonical(path)) for path in matches]
        there = [Found(_text(names), os.fsdecode(path.rpartition(b"/")[2])) for path, names in found
                 if self._tree.places(names)]  # fmt: skip
        if not there:
            raise ContextError(f"{source}: no such file in {self._what}")
        return there

    def _matches(self, wanted: str) -> list[bytes]:
        """Return the paths that a pattern means, component by component."""
        paths = [b""]
        for part in wanted.split("/"):
            pattern = _pattern(part)
            paths = [
                path + b"/" + name
                for path in paths
                for name in self._tree.children(self._tree.canonical(path))
                if pattern.fullmatch(os.fsdecode(name))
            ]
        return [path.lstrip(b"/") for path in paths]

    def status(self, path: str) -> os.stat_result:
        status = self._tree.status(_names(path))
        if status is None:
            raise ContextError(f"{path}: no such file in {self._what}")
        return status

    def below(self, directory: str) -> list[str]:
        """Return every path inside a directory, relative to it, a directory before its entries."""
        top = _names(directory)
        return [_text(names[len(top) :]) for names, _ in self._tree.walk(top)]

    def open(self, path: str) -> BufferedReader:
        return os.fdopen(self._tree.open_file(_names(path)), "rb")

    def link_target(self, path: str) -> bytes:
        return self._tree.link_target(_names(path))


def _pattern(part: str) -> re.Pattern[str]:
    try:
        return translate(part, ignore_file=False)
    except ValueError as error:
        raise ContextError(str(error)) from error


def _names(path: str) -> Names:
    return tuple(os.fsencode(path).split(b"/")) if path else ()


def _text(names: Names) -> str:
    return os.fsdecode(b"/".join(names))

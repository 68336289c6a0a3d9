"""Users and groups by name, as the image's own /etc/passwd and /etc/group have them: files that nobody trusts."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import UsageError
from harness.images.confine import Confined, Names

_MAX_BYTES = 1 << 20
_MAX_ID = 2**32 - 2  # the last one is "no id" (chown(2))


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as, and where its home is."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class Tree(Protocol):
    """A root tree in which paths are looked up and never lead out: `Confined`, or a stack of layers (`Merged`)."""

    def canonical(self, path: bytes) -> Names: ...
    def open_file(self, names: Names) -> int: ...


def _rows(tree: Tree, path: bytes, width: int) -> list[list[str]]:
    """Return the fields of each sound line of a table; none where it is missing or no plain file."""
    try:
        fd = tree.open_file(tree.canonical(path))
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return []
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= width and _is_id(row[2])]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _MAX_ID


def _number(word: str, rows: list[list[str]], what: str) -> int:
    found = next((row for row in rows if row[0] == word), None)
    if found is not None:
        return int(found[2])
    if _is_id(word):
        return int(word)
    table = "passwd" if what == "user" else "group"
    raise UsageError(f"{what}: {word}: not in /etc/{table} of the image", hint="a number needs no entry")


def resolve(root: Path, text: str, more: tuple[str, ...] = ()) -> User:
    """Return who USER[:GROUP] is in the tree at `root`: see `resolve_in`."""
    try:
        tree = Confined(root)
    except OSError as error:  # the root of a container that has ended meanwhile
        raise UsageError(f"user: {text}: {root}: {error.strerror}") from error
    with tree:
        return resolve_in(tree, text, more)


def resolve_in(tree: Tree, text: str, more: tuple[str, ...] = ()) -> User:
    """Return who USER[:GROUP] is in a tree, with the groups that /etc/group gives a named user.

    As Docker has it: an explicit group leaves out those; a number that is in no table has the group 0.
    Raises: UsageError for an unknown name.
    """
    name, colon, group = text.partition(":")
    passwd, groups = _rows(tree, b"/etc/passwd", 6), _rows(tree, b"/etc/group", 4)
    uid = _number(name or "0", passwd, "user")
    row = next((row for row in passwd if row[0] == name), None) or next(
        (row for row in passwd if int(row[2]) == uid), None
    )
    gid = int(row[3]) if row is not None and _is_id(row[3]) else 0
    extra = [int(entry[2]) for entry in groups if row is not None and row[0] in entry[3].split(",")]
    if colon:
        gid, extra = _number(group or "0", groups, "group"), []
    extra += [_number(word, groups, "group") for word in more]
    return User(uid, gid, tuple(dict.fromkeys(extra)), row[5] if row is not None and row[5] else "/")

"""COPY and ADD: files of a context, a stage or the Containerfile itself into one layer.

They go to the place where the image's own links lead.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from harness.images.archive import is_archive, unpack_archive
from harness.images.build_steps import Copy, Inline
from harness.images.confine import Names
from harness.images.context import ContextError, Found
from harness.images.files import Files, inside
from harness.images.merged import Merged
from harness.images.pack import LayerWriter, Owner


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What one COPY does: `sources` are found, `target` is a place of the image (canonical).

    `into` says that the target is a directory that takes each source under its own name. Without an `owner` everything
    keeps its own, or root's where it comes from the context.
    """

    sources: tuple[Found, ...]
    inline: tuple[Inline, ...]
    target: Names
    into: bool
    owner: Owner | None
    mode: int | None
    unpack: bool


def plan_copy(action: Copy, sources: tuple[Found, ...], files: Files, image: Merged, owner: Owner | None) -> CopyPlan:
    """Return what a COPY means, from its sources and the image's tree so far. Raises: ContextError."""
    target = action.target
    place = image.canonical(os.fsencode(os.path.join(action.workdir, target)))  # noqa: PTH118 - keeps a trailing slash
    status = image.status(place)
    there = not place or (status is not None and stat.S_ISDIR(status.st_mode))
    into = there or target.endswith(("/", "/.")) or target == "."
    if len(sources) + len(action.inline) > 1 and not into:
        raise ContextError(f"{target}: several sources need a directory", f"write the target as {target}/")
    first_is_directory = bool(sources) and stat.S_ISDIR(files.status(sources[0].path).st_mode)
    if status is not None and not there and (target.endswith("/") or first_is_directory):
        raise ContextError(f"{target}: is a file in the image, not a directory")
    mode = int(action.mode, 8) if action.mode else None
    return CopyPlan(sources, action.inline, place, into, owner, mode, action.unpack)


@dataclass(slots=True)
class Copier:
    """Writes the entries of one plan; directories that the image lacks are made on the way (0755)."""

    plan: CopyPlan
    files: Files
    image: Merged
    writer: LayerWriter
    _made: set[Names] = field(default_factory=set)
    _first: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def copy(self) -> None:
        """Write all. Raises: ContextError; ImageError when a file changes meanwhile."""
        for source in self.plan.sources:
            if stat.S_ISDIR(self.files.status(source.path).st_mode):
                self._copy_directory(source.path)
            elif not self._unpacked(source.path):
                place = self._place(source.name)
                self._parents(place)
                self._entry(source.path, place)
        for document in self.plan.inline:
            place = self._place(document.name)
            self._parents(place)
            mode = 0o644 if self.plan.mode is None else self.plan.mode
            self.writer.file(b"/".join(place), document.content, mode, self._owner(None))

    def _place(self, name: str) -> Names:
        return (*self.plan.target, os.fsencode(name)) if self.plan.into else self.plan.target

    def _unpacked(self, path: str) -> bool:
        """Unpack an archive of ADD to the target; return whether it is one."""
        if not self.plan.unpack or not stat.S_ISREG(self.files.status(path).st_mode):
            return False
        with self.files.open(path) as file:
            if not is_archive(file):
                return False
            self._parents((*self.plan.target, b""))
            unpack_archive(file, path, self.writer, self.plan.target, self.plan.owner)
        return True

    def _copy_directory(self, source: str) -> None:
        """Copy what is in a directory; the directory itself only gives its mode and time to a target that is new."""
        self._parents(self.plan.target)
        self._directory(self.plan.target, source or None)
        for path in self.files.below(source):
            self._entry(inside(source, path), (*self.plan.target, *os.fsencode(path).split(b"/")))

    def _parents(self, place: Names) -> None:
        for depth in range(1, len(place)):
            self._directory(place[:depth], None)

    def _directory(self, place: Names, source: str | None) -> None:
        """Make a directory, as `source` is, unless the image, or this layer, has it."""
        if not place or place in self._made:
            return
        self._made.add(place)
        status = self.image.status(place)
        if status is not None:
            if not stat.S_ISDIR(status.st_mode):
                raise ContextError(f"/{os.fsdecode(b'/'.join(place))}: is a file in the image, not a directory")
            return
        own = None if source is None else self.files.status(source)
        mode = 0o755 if own is None else stat.S_IMODE(own.st_mode)
        if own is not None and self.plan.mode is not None:
            mode = self.plan.mode
        self.writer.directory(b"/".join(place), mode, self._owner(own), None if own is None else own.st_mtime)

    def _owner(self, status: os.stat_result | None) -> Owner:
        if self.plan.owner is not None:
            return self.plan.owner
        return Owner(status.st_uid, status.st_gid) if status is not None and self.files.keeps_owners else Owner()

    def _entry(self, source: str, place: Names) -> None:
        status, path = self.files.status(source), b"/".join(place)
        mode = self.plan.mode if self.plan.mode is not None else stat.S_IMODE(status.st_mode)
        owner = self._owner(status)
        if stat.S_ISDIR(status.st_mode):
            self._directory(place, source)
        elif stat.S_ISLNK(status.st_mode):
            self.writer.link(path, self.files.link_target(source), owner, status.st_mtime)
        elif stat.S_ISREG(status.st_mode):
            first = self._first_name(status, path)
            if first != path:
                self.writer.hard_link(path, first, mode, owner, status.st_mtime)
                return
            with self.files.open(source) as content:
                self.writer.file(path, content, mode, owner, status.st_mtime)
        else:
            raise ContextError(f"{source}: neither file, directory nor link: it cannot be copied")

    def _first_name(self, status: os.stat_result, path: bytes) -> bytes:
        """Return under which path a file with several names came before in this COPY, or this one."""
        if status.st_nlink == 1:
            return path
        return self._first.setdefault((status.st_dev, status.st_ino), path)

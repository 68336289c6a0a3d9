"""COPY and ADD: files of the context into one layer, at the place where the image's own links lead."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.images.confine import Confined, Names
from harness.images.context import Context, ContextError
from harness.images.pack import LayerWriter, Owner

_CHOWN = re.compile(r"(\d+)(?::(\d+))?")
_CHMOD = re.compile(r"[0-7]{3,4}")
_ARCHIVES = re.compile(r"\.(tar|tgz|tbz2|txz|tzst|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What one COPY does: `sources` are found in the context, `target` is a place of the image (canonical).

    `into` says that the target is a directory that takes each source under its own name.
    """

    sources: tuple[str, ...]
    target: Names
    into: bool
    owner: Owner
    mode: int | None


def parse_owner(text: str) -> Owner:
    """Return --chown=UID[:GID]; the group is the user's number where none is given. Raises: ContextError."""
    match = _CHOWN.fullmatch(text)
    if not match:
        hint = "write numbers, such as --chown=1000:1000: names would have to be looked up in the image"
        raise ContextError(f"--chown={text}: expected UID[:GID]", hint)
    return Owner(int(match.group(1)), int(match.group(2) or match.group(1)))


def parse_mode(text: str) -> int:
    """Return --chmod=755 as a mode. Raises: ContextError."""
    if not _CHMOD.fullmatch(text):
        raise ContextError(f"--chmod={text}: expected an octal mode", "for instance --chmod=755")
    return int(text, 8)


def plan_copy(
    words: Sequence[str], context: Context, image: Confined, workdir: str, *, owner: Owner, mode: int | None
) -> CopyPlan:
    """Return what `COPY SOURCE... TARGET` means, from the context and the image's tree so far.

    Raises: ContextError.
    """
    if len(words) < 2:
        raise ContextError(f"{' '.join(words)}: expected SOURCE... TARGET")
    *patterns, target = words
    sources = tuple(dict.fromkeys(path for pattern in patterns for path in context.find(pattern)))
    place = image.canonical(os.fsencode(os.path.join(workdir, target)))  # noqa: PTH118 - keeps a trailing slash
    status = image.status(place)
    there = status is not None and stat.S_ISDIR(status.st_mode)
    into = there or target.endswith(("/", "/.")) or target == "."
    if len(sources) > 1 and not into:
        raise ContextError(f"{target}: several sources need a directory", f"write the target as {target}/")
    if status is not None and not there and (target.endswith("/") or _is_directory(context, sources[0])):
        raise ContextError(f"{target}: is a file in the image, not a directory")
    return CopyPlan(sources, place, into, owner, mode)


def _is_directory(context: Context, path: str) -> bool:
    return not path or stat.S_ISDIR(context.entries[path].st_mode)


@dataclass(slots=True)
class Copier:
    """Writes the entries of one plan; directories that the image lacks are made on the way (0755)."""

    plan: CopyPlan
    context: Context
    image: Confined
    writer: LayerWriter
    _made: set[Names] = field(default_factory=set)

    def copy(self) -> None:
        """Write all. Raises: ContextError; ImageError when a file changes meanwhile."""
        for source in self.plan.sources:
            if _is_directory(self.context, source):
                self._copy_directory(source)
                continue
            name = os.fsencode(source.rpartition("/")[2])
            place = (*self.plan.target, name) if self.plan.into else self.plan.target
            self._parents(place)
            self._entry(source, place)

    def _copy_directory(self, source: str) -> None:
        """Copy what is in a directory; the directory itself only gives the mode of a target that is not there yet."""
        mode = 0o755 if not source else stat.S_IMODE(self.context.entries[source].st_mode)
        self._parents(self.plan.target)
        self._directory(self.plan.target, self.plan.mode if self.plan.mode is not None else mode)
        for path in self.context.below(source):
            whole = f"{source}/{path}" if source else path
            self._entry(whole, (*self.plan.target, *os.fsencode(path).split(b"/")))

    def _parents(self, place: Names) -> None:
        for depth in range(1, len(place)):
            self._directory(place[:depth], 0o755)

    def _directory(self, place: Names, mode: int) -> None:
        """Make a directory unless the image, or this layer, has it."""
        if not place or place in self._made:
            return
        self._made.add(place)
        status = self.image.status(place)
        if status is None:
            self.writer.directory(b"/".join(place), mode, self.plan.owner)
        elif not stat.S_ISDIR(status.st_mode):
            raise ContextError(f"/{os.fsdecode(b'/'.join(place))}: is a file in the image, not a directory")

    def _entry(self, source: str, place: Names) -> None:
        status, path = self.context.entries[source], b"/".join(place)
        mode = self.plan.mode if self.plan.mode is not None else stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            self._directory(place, mode)
        elif stat.S_ISLNK(status.st_mode):
            self.writer.link(path, self.context.link_target(source), self.plan.owner)
        elif stat.S_ISREG(status.st_mode):
            with self.context.open(source) as content:
                self.writer.file(path, content, mode, self.plan.owner)
        else:
            raise ContextError(f"{source}: neither file, directory nor link: it cannot be copied")


def refuse_archives(sources: Sequence[str]) -> None:
    """Refuse what ADD would unpack. Raises: ContextError."""
    for source in sources:
        if _ARCHIVES.search(source):
            hint = "COPY it, or unpack it beside the Containerfile and COPY the directory"
            raise ContextError(f"{source}: unpacking an archive is not supported yet", hint)

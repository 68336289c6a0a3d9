"""The build context: which files a build may see, found by Docker's patterns, and never anything outside it.

Source: Dockerfile reference, ".dockerignore file" and "COPY"; Go's path/filepath.Match; moby/patternmatcher.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from harness.images.confine import Confined, Names


class ContextError(ValueError):
    """A source that cannot be copied. `hint` says what helps."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Found:
    """One source that is there: its path once links are followed, and the name that it has in a directory."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of an ignore file; a rule with `keeps` (`!`) takes back what earlier lines ignore."""

    pattern: re.Pattern[str]
    keeps: bool


def translate(pattern: str, *, ignore_file: bool) -> re.Pattern[str]:
    """Return Docker's pattern as a regular expression: `*` and `?` stop at `/`, `**` does not. Raises: ValueError."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
                out.append("(?:.*/)?")
            else:
                out.append(".*")
            continue
        at += 1
        if char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise ValueError(f"{pattern}: a [ that is never closed")
            body = pattern[at:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"(?!/)[{'^' + body[1:] if body.startswith('^') else body}]")
            at = end + 1
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)))
    tail = "(?:/.*)?" if ignore_file else ""
    try:
        return re.compile("".join(out) + tail, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern}: {error}") from error


def parse_ignore(text: str) -> tuple[_Rule, ...]:
    """Return the rules of a .dockerignore. Raises: ValueError."""
    rules = []
    for raw in text.removeprefix("\ufeff").splitlines():
        line = raw.strip()
        if not line or raw.startswith("#"):
            continue
        keeps = line.startswith("!")
        path = os.path.normpath(line.removeprefix("!").strip()).lstrip("/")
        if path != ".":  # Docker ignores a line that means the whole context
            rules.append(_Rule(translate(path, ignore_file=True), keeps))
    return tuple(rules)


class Context:
    """The files under one directory that its ignore file leaves: relative path -> lstat. Links are never followed."""

    keeps_owners = False

    def __init__(self, root: Path, rules: Sequence[_Rule] = ()) -> None:
        self.root = root
        self._rules = rules
        self._confined = Confined(root, beneath=True)

    @functools.cached_property
    def entries(self) -> dict[str, os.stat_result]:
        """Every path with its lstat; read only where an instruction copies something."""
        return dict(self._list(""))

    def close(self) -> None:
        self._confined.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _list(self, directory: str) -> Iterable[tuple[str, os.stat_result]]:
        with os.scandir(self.root / directory) as found:
            children = sorted(found, key=lambda child: os.fsencode(child.name))
        for child in children:
            path = f"{directory}/{child.name}" if directory else child.name
            inside = list(self._list(path)) if child.is_dir(follow_symlinks=False) else []
            if inside or not self.ignored(path):
                yield path, child.stat(follow_symlinks=False)
                yield from inside

    def ignored(self, path: str) -> bool:
        """Whether the ignore file leaves a path out: the last rule that matches it or a directory above it decides."""
        ignored = False
        for rule in self._rules:
            if rule.keeps == ignored and rule.pattern.fullmatch(path):
                ignored = not rule.keeps
        return ignored

    def find(self, source: str) -> list[Found]:
        """Return the paths that one source of COPY means ("" is the context itself), links on the way followed.

        Raises: ContextError when there is none, or when it leads out of the context.
        """
        if ".." in Path(source).parts:
            hint = "COPY takes what is inside the context; choose a context that holds it"
            raise ContextError(f"{source}: leads out of the context", hint)
        wanted = os.path.normpath(source.lstrip("/") or ".")
        if wanted == ".":
            return [Found("", "")]
        matches = [wanted] if not set(wanted) & set("*?[\\") else self._matches(wanted)
        found = [Found(self._real(path), path.rpartition("/")[2]) for path in matches]
        missing = [one for one in found if one.path and one.path not in self.entries]
        if missing or not found:
            raise ContextError(f"{source}: no such file in the context {self.root}", self._hint(wanted))
        return found

    def _matches(self, wanted: str) -> list[str]:
        try:
            pattern = translate(wanted, ignore_file=False)
        except ValueError as error:
            raise ContextError(str(error)) from error
        return [path for path in self.entries if pattern.fullmatch(path)]

    def _real(self, path: str) -> str:
        try:
            names = self._confined.canonical(os.fsencode(path))
        except OSError as error:
            raise ContextError(
                f"{path}: {error.strerror}", "a link may only lead to something in the context"
            ) from error
        return os.fsdecode(b"/".join(names))

    def _hint(self, wanted: str) -> str | None:
        if (self.root / wanted).exists() and self.ignored(wanted):
            return "the ignore file leaves it out"
        near = difflib.get_close_matches(wanted, list(self.entries), n=1)
        return f"did you mean '{near[0]}'?" if near else None

    def status(self, path: str) -> os.stat_result:
        """Return the lstat of a path that was found; "" is the context itself."""
        return self.entries[path] if path else self.root.stat()

    def below(self, directory: str) -> list[str]:
        """Return every path inside a directory, relative to it, a directory before its entries."""
        prefix = f"{directory}/" if directory else ""
        return [path.removeprefix(prefix) for path in self.entries if path.startswith(prefix)]

    def open(self, path: str) -> BufferedReader:
        """Return a regular file of the context, opened without following a link."""
        descriptor = self._confined.open_file(_names(path))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ContextError(f"{path}: no regular file any more: it changed while the build ran")
        return os.fdopen(descriptor, "rb")

    def link_target(self, path: str) -> bytes:
        return os.fsencode((self.root / path).readlink())


def _names(path: str) -> Names:
    return tuple(os.fsencode(path).split(b"/"))


def open_context(root: Path, containerfile: Path) -> Context:
    """Return the context of a build: with `CONTAINERFILE.dockerignore`, `.containerignore` or `.dockerignore`.

    Raises: ContextError when the directory or its ignore file cannot be read.
    """
    if not root.is_dir():
        raise ContextError(f"{root}: the context is no directory")
    names = (containerfile.with_name(containerfile.name + ".dockerignore"),)
    for path in (*names, root / ".containerignore", root / ".dockerignore"):
        if path.is_file():
            try:
                return Context(root, parse_ignore(path.read_text()))
            except ValueError as error:
                raise ContextError(f"{path}: {error}") from error
    return Context(root)

"""A YAML file read strictly, with the place of every key and value, so that each mistake can be shown where it stands.

The scalars follow the core schema of YAML 1.2 alone: `no` is a string, `0755` the number 755, a date stays text.
What a configuration file does not need and an attacker does is refused: anchors and aliases (a kilobyte of them can
stand for gigabytes), tags, duplicate keys, deep nesting, big files.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import Problem, ScenarioError, UsageError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

# Where a node is in the data: keys and list indices from the top.
Loc = tuple[str | int, ...]

# YAML 1.2.2, section 10.3.2, "Tag Resolution" of the core schema.
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = ((re.compile(r"[-+]?[0-9]+"), 10), (re.compile(r"0o[0-7]+"), 8), (re.compile(r"0x[0-9a-fA-F]+"), 16))
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# An integer of more digits is no quantity that we know; int() of a million digits would take minutes.
_MAX_DIGITS = 30
# What YAML reads only where it is escaped, beyond what JSON escapes (YAML 1.2.2, section 5.1).
_NOT_PRINTABLE = re.compile("[\\x7f-\\x9f\\u2028\\u2029\\ufeff\\ufffe\\uffff]")
# What needs no quotes in a flow of YAML, whatever stands beside it.
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@%+-]*(:[A-Za-z0-9_./@%+-]+)*")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Span:
    """Where an entry stands: its key (None in a list and for the whole document) and its value."""

    key: Position | None
    value: Position


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: `data` of dicts, lists and scalars, a Span for each node of it, and what `override` put in."""

    path: str
    text: str
    data: Any
    spans: Mapping[Loc, Span]
    origins: Mapping[Loc, str] = field(default_factory=dict)

    def origin(self, loc: Loc) -> str | None:
        """Return the override that set `loc` or what holds it; None where the file did."""
        return next((text for path, text in self.origins.items() if _within(loc, path)), None)

    def span(self, loc: Loc) -> tuple[Span, bool]:
        """Return the span of `loc`, or of the nearest node above it, and whether it is `loc` itself."""
        for end in range(len(loc), -1, -1):
            if loc[:end] in self.spans:
                return self.spans[loc[:end]], end == len(loc)
        return Span(None, Position(1, 1)), False

    def problem(self, loc: Loc, message: str, *, code: str = "invalid", at: str = "value") -> Problem:
        """Return a Problem at the value of `loc`, at its key (`at="key"`), or at what should have held it."""
        override = self.origin(loc)
        key = ".".join(str(part) for part in loc)
        if override is not None:
            return Problem(override, 0, 0, key, message, code)
        span, exact = self.span(loc)
        place = span.value if exact and at == "value" else span.key or span.value
        return Problem(self.path, place.line, place.column, key, message, code)


def read(path: Path) -> Document:
    """Return a file as a Document. Raises: ScenarioError with every mistake of syntax that can be told at once."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = Problem(str(path), 0, 0, "", f"cannot be read: {error.strerror}", "io")
        hint = missing_hint(path) if isinstance(error, FileNotFoundError) else None
        raise ScenarioError([problem], hint=hint) from error
    if len(raw) > MAX_BYTES:
        raise _one(str(path), Position(0, 0), f"larger than {MAX_BYTES >> 20} MiB", code="size")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        place = Position(before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        raise _one(str(path), place, "not UTF-8", code="syntax") from error
    return parse(text, str(path))


def missing_hint(path: Path) -> str | None:
    """Return what helps where a scenario is not there: a file beside it of a like name, or from where paths count."""
    siblings = [entry.name for entry in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = nearest(path.name, siblings)
    if near:
        return f"did you mean '{path.parent / near}'?"
    return None if path.is_absolute() else f"paths count from the current directory: {Path.cwd()}"


def parse(text: str, path: str) -> Document:
    """Return text as a Document; `path` is how messages call it. Raises: ScenarioError."""
    builder = _Builder(path)
    for event in _events(text, path):
        builder.take(event)
    if builder.problems:
        raise ScenarioError(builder.problems)
    return Document(path, text, builder.root, builder.spans)


def override(document: Document, assignment: str) -> Document:
    """Return the document with one `dotted.key=value` put in; the value is YAML, missing mappings are made.

    Raises: UsageError for an assignment that is none; ScenarioError where its value or its place is wrong.
    """
    origin = f"--set {assignment}"
    key, equals, text = assignment.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError(f"{origin}: expected dotted.key=value", hint="for instance: --set trials.blocks.max=10")
    value = parse(text, origin).data
    try:
        changed, loc = _put(document, key, value)
    except _NoEntryError as error:
        raise ScenarioError([Problem(origin, 0, 0, error.place, str(error), "override")]) from error
    return replace(changed, origins={**document.origins, loc: origin})


def moved(document: Document, source: Loc, key: str) -> Document:
    """Return the document with a value of the list at `source[:-1]` put in at a dotted key too.

    Mistakes in it are told where it stands in the list, those of the key at the list's own key. Raises: ScenarioError
    where there can be no such key.
    """
    value = document.data
    for part in source:
        value = value[part]
    try:
        changed, loc = _put(document, key, value)
    except _NoEntryError as error:
        raise ScenarioError([document.problem(source[:-1], str(error), at="key")]) from error
    key_at = document.span(source[:-1])[0].key
    made = (loc[:end] for end in range(1, len(loc)) if loc[:end] not in document.spans)
    value_at = document.span(source)[0].value
    spans = {path: Span(key_at, value_at) for path in (*made, loc)}
    for path, span in document.spans.items():
        if _within(path, source) and path != source:
            spans[*loc, *path[len(source) :]] = span
    origin = document.origin(source)
    origins = changed.origins if origin is None else {**changed.origins, loc: origin}
    return replace(changed, spans={**changed.spans, **spans}, origins=origins)


class _NoEntryError(Exception):
    """`place` has no such entry, and none can be made."""

    def __init__(self, place: str, part: str) -> None:
        super().__init__(f"has no entry {part!r}")
        self.place = place


def _put(document: Document, key: str, value: Any) -> tuple[Document, Loc]:
    """Return the document with a value at a dotted key, and where that is; nothing is said of where it came from."""
    loc: Loc = ()
    data = copy.deepcopy(document.data)
    node = data
    parts = key.split(".")
    for number, part in enumerate(parts):
        step = _step(node, part)
        if step is None:
            raise _NoEntryError(".".join(parts[:number]), part)
        loc = (*loc, step)
        if number == len(parts) - 1:
            node[step] = copy.deepcopy(value)
        elif isinstance(node, dict) and not isinstance(node.get(step), dict | list):
            node[step] = {}
        node = node[step]
    spans = {path: span for path, span in document.spans.items() if not _within(path, loc)}
    origins = {path: origin for path, origin in document.origins.items() if not _within(path, loc)}
    return replace(document, data=data, spans=spans, origins=origins), loc


def _within(path: Loc, top: Loc) -> bool:
    return path[: len(top)] == top


def _step(node: Any, part: str) -> str | int | None:
    """Return the key or the index that `part` is in `node`; None where there can be none."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return int(part)
    return None


def _one(path: str, place: Position, message: str, *, code: str) -> ScenarioError:
    return ScenarioError([Problem(path, place.line, place.column, "", message, code)])


def _events(text: str, path: str) -> Iterable[Any]:
    """Yield the parser's events; its errors become ours."""
    from ruamel.yaml import YAML  # noqa: PLC0415  (20 ms that `--help` need not pay)
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    place = Position(1, 1)
    try:
        for event in YAML(typ="rt", pure=True).parse(text):
            place = Position(event.end_mark.line + 1, event.end_mark.column + 1)
            yield event
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        context = f" ({error.context})" if error.context else ""
        raise _one(path, place, f"{error.problem}{context}", code="syntax") from error
    except YAMLError as error:
        before = text[: getattr(error, "position", 0)]
        place = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise _one(path, place, str(error).splitlines()[0], code="syntax") from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # ruamel.yaml meets some malformed texts with its own assertions instead of an error of YAML.
        raise _one(path, place, "not YAML from here on", code="syntax") from error


def flow(value: Any) -> str:
    """Return a value as YAML in one line, as short as it can be: what reads it again gets the same value."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and _scalar_is_text(value):
        return value
    return _NOT_PRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _scalar_is_text(text: str) -> bool:
    try:
        return isinstance(_scalar(text), str)
    except ValueError:
        return False


def _scalar(text: str) -> Any:
    """Return a plain scalar's value. Raises: ValueError for a number that is none of ours."""
    if _NULL.fullmatch(text):
        return None
    if text in _BOOL:
        return _BOOL[text]
    for pattern, base in _INT:
        if pattern.fullmatch(text):
            if len(text) > _MAX_DIGITS:
                raise ValueError("a number of too many digits")
            return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("not a finite number")
    return text


class _Builder:
    """Turns parser events into data without recursion, so that no nesting can exhaust the stack."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.root: Any = None
        self.spans: dict[Loc, Span] = {}
        self.problems: list[Problem] = []
        self._open: list[tuple[Loc, dict[str, Any] | list[Any]]] = []
        self._keys: list[tuple[str, Position] | None] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        kind = type(event).__name__.removesuffix("Event")
        place = Position(event.start_mark.line + 1, event.start_mark.column + 1)
        if kind == "DocumentStart":
            self._start_document(event, place)
        elif kind in {"MappingEnd", "SequenceEnd"}:
            self._open.pop()
            self._keys.pop()
        elif kind in {"Alias", "Scalar", "MappingStart", "SequenceStart"}:
            self._node(kind, event, place)

    def _refuse(self, place: Position, message: str, code: str = "syntax") -> None:
        self.problems.append(Problem(self.path, place.line, place.column, "", message, code))

    def _start_document(self, event: Any, place: Position) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _one(self.path, place, "a second document: expected one document a file", code="syntax")
        if event.version not in {None, (1, 2)}:
            self._refuse(place, "a %YAML directive for another version: this is read as YAML 1.2")

    def _node(self, kind: str, event: Any, place: Position) -> None:
        if event.anchor is not None:
            self._refuse(place, f"anchors and aliases are not supported: write the value of {event.anchor!r} out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse(place, f"tags are not supported: remove {tag!s}")
        if kind == "MappingStart":
            self._enter({}, place)
        elif kind == "SequenceStart":
            self._enter([], place)
        elif self._expects_key():
            self._take_key(event, place)
        else:
            self._add(self._value_of(event, place) if kind == "Scalar" else None, place)

    def _value_of(self, event: Any, place: Position) -> Any:
        if not event.implicit[0]:
            return event.value
        try:
            return _scalar(event.value)
        except ValueError as error:
            self._refuse(place, f"{event.value[:_MAX_DIGITS]}: {error}")
            return None

    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1][1], dict) and self._keys[-1] is None

    def _take_key(self, event: Any, place: Position) -> None:
        name = getattr(event, "value", "")
        if not name:
            self._refuse(place, "expected a name as key")
        mapping = self._open[-1][1]
        if name in mapping:
            first = self.spans[(*self._open[-1][0], name)].key or place
            self._refuse(place, f"{name}: duplicate key; first given on line {first.line}", "duplicate_key")
        self._keys[-1] = (name, place)

    def _add(self, value: Any, place: Position) -> Loc:
        """Put a value where it belongs and return its path."""
        if not self._open:
            self.root, self.spans[()] = value, Span(None, place)
            return ()
        path, container = self._open[-1]
        key = self._keys[-1]
        if isinstance(container, list):
            container.append(value)
            here: Loc = (*path, len(container) - 1)
        else:
            name = key[0] if key else ""
            container[name] = value
            here = (*path, name)
            self._keys[-1] = None
        self.spans[here] = Span(key[1] if key else None, place)
        return here

    def _enter(self, container: dict[str, Any] | list[Any], place: Position) -> None:
        if self._expects_key():
            raise _one(self.path, place, "expected a name as key, got a mapping or a list", code="syntax")
        if len(self._open) >= MAX_DEPTH:
            raise _one(self.path, place, f"nested deeper than {MAX_DEPTH} levels", code="size")
        self._open.append((self._add(container, place), container))
        self._keys.append(None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or the known names where none is near and they are few, or nothing."""
    names = sorted(known)
    near = nearest(word, names)
    if near:
        return f"; did you mean '{near}'?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that `word` most likely misspells; None where none is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None


def excerpt(problem: Problem, lines: Sequence[str]) -> str:
    """Return the source line of a problem with a caret under its column; empty where it has no place in the file."""
    if not 1 <= problem.line <= len(lines):
        return ""
    source = lines[problem.line - 1].rstrip("\r\n").replace("\t", " ")
    gutter = f"{problem.line:>5} | "
    return f"{gutter}{source}\n{' ' * (len(gutter) - 2)}| {' ' * (problem.column - 1)}^"

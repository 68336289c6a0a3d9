"""A Containerfile as data: everything is parsed, whether or not it can be carried out (`harness.images.build`).

    parse(text, path) -> Containerfile(arguments, stages, escape)
    Stage(base, name, platform, line, instructions)
    Instruction(keyword, line, flags, text, exec_form, heredocs)

Nothing is replaced here: variables have their values only while a build runs.
Source: Dockerfile reference (docs.docker.com/reference/dockerfile), frontend version 1.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildError, ImageError

_FILES = ("Containerfile", "Dockerfile")
KEYWORDS = (
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD",
    "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
)  # fmt: skip

_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=\s*(\S.*?)\s*$", re.IGNORECASE)
_FLAG = re.compile(r"--([a-z][a-z-]*)(?:=(\S*))?(?:\s+|$)")
HEREDOC = re.compile(r"(?<!\S)\d?<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_JSON_FORMS = ("ADD", "CMD", "COPY", "ENTRYPOINT", "HEALTHCHECK", "RUN", "SHELL", "VOLUME")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A document in the file: `<<EOF` lines `EOF`. Variables in it are replaced unless the mark was `quoted`."""

    name: str
    content: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. `text` is what follows keyword and flags; `exec_form` the list where it is written as JSON."""

    keyword: str
    line: int
    flags: tuple[tuple[str, str], ...]
    text: str
    exec_form: tuple[str, ...] | None = None
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """What one FROM begins. `base` and `platform` as written, `name` of `AS NAME` in lower case or empty."""

    base: str
    name: str
    platform: str
    line: int
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Containerfile:
    """A whole file. `arguments` are the ARG before the first FROM."""

    path: str
    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"


def error(path: str, line: int, what: str, *, hint: str | None = None) -> BuildError:
    """Return the error of one line: `PATH:LINE: WHAT`."""
    return BuildError(f"{path}:{line}: {what}", hint=hint)


def find(path: Path) -> Path:
    """Return the Containerfile (or Dockerfile) of a directory, or the file itself. Raises: ImageError."""
    if path.is_file():
        return path
    for name in _FILES:
        if (path / name).is_file():
            return path / name
    raise ImageError(f"image: {path}: no Containerfile there", hint="a build needs a directory with a Containerfile")


def read(path: Path) -> Containerfile:
    """Return the Containerfile at a path. Raises: BuildError where it cannot be read, or is none."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise BuildError(f"{path}: cannot be read: {problem}") from problem
    return parse(text, str(path))


def parse_trigger(text: str, path: str, line: int) -> Instruction:
    """Return what a base's ONBUILD asks for; `line` is that of FROM. Raises: BuildError."""
    found = _instruction(text.strip(), path, line)
    if found.keyword in {"FROM", "ONBUILD", "MAINTAINER"}:
        raise error(path, line, f"ONBUILD: {found.keyword}: cannot be put off")
    return found


def parse(text: str, path: str) -> Containerfile:
    """Return a Containerfile as data; `path` is for messages. Raises: BuildError with file and line."""
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    escape = _escape(lines, path)
    arguments, stages = list[Instruction](), list[Stage]()
    for instruction in _instructions(lines, path, escape):
        if instruction.keyword == "FROM":
            stages.append(_stage(instruction, path))
        elif stages:
            last = stages[-1]
            added = (*last.instructions, instruction)
            stages[-1] = Stage(last.base, last.name, last.platform, last.line, added)
        elif instruction.keyword == "ARG":
            arguments.append(instruction)
        else:
            what = f"{instruction.keyword}: before the first FROM"
            raise error(path, instruction.line, what, hint="begin with: FROM busybox (or FROM scratch)")
    if not stages:
        count = max(len(lines) - (not lines[-1]), 1)
        raise error(path, count, "FROM: missing", hint="begin with: FROM busybox (or FROM scratch)")
    return Containerfile(path, tuple(arguments), tuple(stages), escape)


def _escape(lines: Sequence[str], path: str) -> str:
    """Return the escape character that a directive at the head of the file sets."""
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.match(line.strip())
        if not match:
            break
        if match.group(1).lower() == "escape":
            if match.group(2) not in {"\\", "`"}:
                raise error(path, number, f"escape: {match.group(2)}: expected \\ or `")
            return match.group(2)
    return "\\"


def _instructions(lines: Sequence[str], path: str, escape: str) -> Iterator[Instruction]:
    at = 0
    while at < len(lines):
        first, joined, at = at, lines[at].strip(), at + 1
        if not joined or joined.startswith("#"):
            continue
        while _continues(joined, escape):
            joined = joined[:-1]
            while at < len(lines) and (not lines[at].strip() or lines[at].lstrip().startswith("#")):
                at += 1
            if at == len(lines):
                break
            joined, at = joined + lines[at].rstrip(), at + 1
        instruction = _instruction(joined.strip(), path, first + 1)
        documents, at = _heredocs(instruction, lines, at, path)
        yield Instruction(
            instruction.keyword, instruction.line, instruction.flags, instruction.text,
            None if documents else instruction.exec_form, documents,
        )  # fmt: skip


def _continues(line: str, escape: str) -> bool:
    """Whether a line ends with an odd number of escapes."""
    return (len(line) - len(line.rstrip(escape))) % 2 == 1


def _instruction(line: str, path: str, number: int) -> Instruction:
    word, _, text = line.partition(" ") if " " in line else line.partition("\t")
    keyword, text = word.upper(), text.strip()
    if keyword not in KEYWORDS:
        near = difflib.get_close_matches(keyword, KEYWORDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"instructions: {', '.join(KEYWORDS)}"
        raise error(path, number, f"{word}: unknown instruction", hint=hint)
    flags = []
    while keyword not in {"CMD", "ENTRYPOINT", "ENV", "LABEL"} and (match := _FLAG.match(text)):
        flags.append((match.group(1), match.group(2) or ""))
        text = text[match.end() :]
    if not text:
        raise error(path, number, f"{keyword}: nothing follows")
    if keyword == "ONBUILD":
        parse_trigger(text, path, number)
    form = text.partition(" ")[2].lstrip() if keyword == "HEALTHCHECK" else text  # it is CMD's there
    return Instruction(keyword, number, tuple(flags), text, _exec_form(keyword, form, path, number))


def _exec_form(keyword: str, text: str, path: str, number: int) -> tuple[str, ...] | None:
    """Return the list of the JSON form, None for the shell form.

    A list that is no JSON is an error here, where Docker runs it through a shell: `CMD ['a']` is never meant so.
    """
    if keyword not in _JSON_FORMS or not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        hint = 'write strings in double quotes: ["a", "b"]'
        raise error(path, number, f"{keyword}: {text[:60]}: no JSON list of strings", hint=hint)
    return tuple(words)


def _heredocs(instruction: Instruction, lines: Sequence[str], at: int, path: str) -> tuple[tuple[Heredoc, ...], int]:
    """Return the documents that belong to an instruction, and the line at which the file goes on."""
    documents = []
    marks = HEREDOC.findall(instruction.text) if instruction.keyword in {"RUN", "COPY", "ADD"} else []
    for dash, quote, name in marks:
        content = []
        while at < len(lines) and (lines[at].lstrip("\t") if dash else lines[at]) != name:
            content.append(lines[at].lstrip("\t") if dash else lines[at])
            at += 1
        if at == len(lines):
            raise error(path, instruction.line, f"{instruction.keyword}: <<{name}: no line that says {name}")
        documents.append(Heredoc(name, "".join(f"{line}\n" for line in content), bool(quote)))
        at += 1
    return tuple(documents), at


def _stage(instruction: Instruction, path: str) -> Stage:
    words = instruction.text.split()
    named = len(words) == 3 and words[1].upper() == "AS"
    if len(words) != 1 and not named:
        raise error(path, instruction.line, f"FROM: {instruction.text}: expected IMAGE or IMAGE AS NAME")
    flags = dict(instruction.flags)
    unknown = set(flags) - {"platform"}
    if unknown:
        raise error(path, instruction.line, f"FROM: --{min(unknown)}: unknown option", hint="FROM takes --platform")
    return Stage(words[0], words[2].lower() if named else "", flags.get("platform", ""), instruction.line, ())

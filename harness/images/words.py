"""Words of a Containerfile instruction: quotes, escapes and variables, as Docker's own reader has them.

Source: Dockerfile reference, "Environment replacement"; moby/buildkit frontend/dockerfile/shell/lex.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_DEPTH = 50  # of ${a:-${b:-...}}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class WordError(ValueError):
    """A word that cannot be read; the message says why."""


@dataclass(slots=True)
class _Scanner:
    """Reads one text from `at` on; a method returns what it read with quotes removed and variables replaced."""

    text: str
    variables: Mapping[str, str]
    escape: str
    at: int = 0
    depth: int = 0

    def word(self, stop: str) -> str:
        """Read up to one of the characters of `stop` outside quotes, or to the end."""
        out: list[str] = []
        while self.at < len(self.text) and (char := self.text[self.at]) not in stop:
            self.at += 1
            if char == "'":
                out.append(self._single())
            elif char == '"':
                out.append(self._double())
            elif char == "$":
                out.append(self.variable())
            elif char == self.escape:
                out.append(self.text[self.at : self.at + 1])
                self.at += 1
            else:
                out.append(char)
        return "".join(out)

    def _single(self) -> str:
        end = self.text.find("'", self.at)
        if end < 0:
            raise WordError("a ' that is never closed")
        start, self.at = self.at, end + 1
        return self.text[start:end]

    def _double(self) -> str:
        out: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == '"':
                return "".join(out)
            if char == "$":
                out.append(self.variable())
            elif char == self.escape and self.text[self.at : self.at + 1] in ('"', "$", self.escape):
                out.append(self.text[self.at : self.at + 1])
                self.at += 1
            else:
                out.append(char)
        raise WordError('a " that is never closed')

    def variable(self) -> str:
        braced = self.text[self.at : self.at + 1] == "{"
        match = _VARIABLE.match(self.text, self.at + braced)
        if not match:
            if braced:
                raise WordError("'${' without the name of a variable")
            return "$"
        self.at = match.end()
        value = self.variables.get(match.group())
        return self._modified(value, match.group()) if braced else value or ""

    def _modified(self, value: str | None, name: str) -> str:
        """Read what follows `${NAME`: `}`, `-word}`, `:-word}`, `+word}`, `:+word}`."""
        match = re.compile(r"(:?)([-+?]?)").match(self.text, self.at)
        colon, operator = match.groups() if match else ("", "")
        self.at += len(colon) + len(operator)
        if not operator and (colon or self.text[self.at : self.at + 1] != "}"):
            raise WordError(f"${{{name}: expected '}}', ':-' or ':+'")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise WordError(f"${{{name}: variables more than {_MAX_DEPTH} deep")
        word = self.word("}")
        self.depth -= 1
        if self.text[self.at : self.at + 1] != "}":
            raise WordError(f"${{{name}: never closed")
        self.at += 1
        there = bool(value) if colon else value is not None
        if operator == "?" and not there:
            raise WordError(f"{name}: {word or 'not set'}")
        if operator == "+":
            return word if there else ""
        return value or "" if there or not operator else word


def expand(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Return one text with variables replaced and quotes removed; blanks stay. Raises: WordError."""
    return _Scanner(text, variables, escape).word("")


def expand_document(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """Return a document with variables replaced; quotes are text there, an escape counts before `$` and itself.

    Raises: WordError.
    """
    scanner, out = _Scanner(text, variables, escape), list[str]()
    while scanner.at < len(text):
        char, following = text[scanner.at], text[scanner.at + 1 : scanner.at + 2]
        scanner.at += 1
        if char == "$":
            out.append(scanner.variable())
        elif char == escape and following in ("$", escape):
            out.append(following)
            scanner.at += 1
        else:
            out.append(char)
    return "".join(out)


def split(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """Return the words of a text, variables replaced; a value's own blanks do not split. Raises: WordError."""
    scanner, words = _Scanner(text, variables, escape), []
    while scanner.at < len(text):
        if text[scanner.at].isspace():
            scanner.at += 1
        else:
            words.append(scanner.word(" \t\n\r"))
    return words


def split_raw(text: str, *, escape: str = "\\") -> list[str]:
    """Return the words of a text as they are written, quotes, escapes and variables kept. Raises: WordError."""
    scanner, words = _Scanner(text, {}, escape), []
    while scanner.at < len(text):
        if text[scanner.at].isspace():
            scanner.at += 1
        else:
            start = scanner.at
            scanner.word(" \t\n\r")
            words.append(text[start : scanner.at])
    return words


def assignments(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> dict[str, str]:
    """Return the pairs of ENV and LABEL: `a=1 b="2 3"`, or the old form `a the rest`. Raises: WordError."""
    raw = split_raw(text, escape=escape)
    if raw and "=" not in raw[0]:
        value = text.strip().removeprefix(raw[0]).strip()
        if not value:
            raise WordError(f"{raw[0]}: expected NAME=VALUE")
        return {expand(raw[0], variables, escape=escape): expand(value, variables, escape=escape)}
    pairs = {}
    for word in raw:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise WordError(f"{word}: expected NAME=VALUE")
        pairs[expand(name, variables, escape=escape)] = expand(value, variables, escape=escape)
    return pairs

"""Typed readers of a JSON document: each gives a value of the wanted type, or an error that names the field.

As in the Go programs that write these documents, `null` is the same as a field that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from harness.container.errors import ContainerError
from harness.container.frozen import Frozen

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from typing import NoReturn, TypeVar

    Value = TypeVar("Value")

MAX_BYTES = 8 << 20
"""The longest document that is read."""

UINT16 = (1 << 16) - 1
UINT32 = (1 << 32) - 1
UINT64 = (1 << 64) - 1
INT64 = (1 << 63) - 1
MAX_ID = UINT32 - 1
"""The last user or group id: all ones stand for "none" (credentials(7), chown(2))."""


def shown(value: object) -> str:
    """Return a value for an error message, never a long one."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | int | float) or value is None:
        text = ascii(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return "an array" if isinstance(value, list) else "an object"


def suggestion(word: str, known: Collection[str]) -> str:
    """Return "; did you mean ...?" for the nearest known word, or nothing."""
    import difflib

    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word[:80].lower(), names, n=1, cutoff=0.5)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def _text_fault(value: str) -> str:
    """Return why a string cannot be given to the kernel, or nothing."""
    if "\0" in value:
        return "contains a NUL byte"
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "is not Unicode text"
    return ""


class Fields(Frozen):
    """An object of the document at `path`; `source` is the document's name."""

    source: str
    path: str
    values: Mapping[str, object]

    @classmethod
    def of(cls, source: str, path: str, value: object) -> Fields:
        """Return the fields of an object. Raises ContainerError for anything else."""
        if not isinstance(value, Mapping):
            raise ContainerError(source, 0, f"{path}{': ' if path else ''}{shown(value)} is not an object")
        return cls(source, path, value)

    def at(self, key: str) -> str:
        """Return the path of a field; that of an entry `key[i]` as well."""
        key = ascii(key)[1:-1]
        return f"{self.path}.{key}" if self.path else key

    def fail(self, key: str, why: str) -> NoReturn:
        """Raise a ContainerError that names a field."""
        raise ContainerError(self.source, 0, f"{self.at(key)}: {why}")

    def has(self, key: str) -> bool:
        """Return whether a field is there."""
        return self.values.get(key) is not None

    def need(self, key: str) -> None:
        """Raise a ContainerError unless a field is there."""
        if not self.has(key):
            self.fail(key, "is missing")

    # -- single values -----------------------------------------------------------------------------------------------

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.fail(key, f"{shown(value)} is not a string")
        fault = _text_fault(value)
        if fault:
            self.fail(key, f"{shown(value)} {fault}")
        return value

    def text(self, key: str) -> str:
        """Return a string, an empty one if there is none."""
        return self._text(key, self.values[key]) if self.has(key) else ""

    def needed_text(self, key: str) -> str:
        """Return a string that must be there and not be empty."""
        self.need(key)
        return self.text(key) or self.fail(key, "is empty")

    def absolute(self, key: str) -> str:
        """Return a path that must be there and be absolute."""
        path = self.needed_text(key)
        if not path.startswith("/"):
            self.fail(key, f"{shown(path)} is not an absolute path")
        return path

    def flag(self, key: str) -> bool:
        """Return a boolean, False if there is none."""
        return self.maybe_flag(key) or False

    def maybe_flag(self, key: str) -> bool | None:
        """Return a boolean or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, f"{shown(value)} is neither true nor false")
        return value

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(key, f"{shown(value)} is not an integer")
        if not low <= value <= high:
            self.fail(key, f"{shown(value)} is not from {low} to {high}")
        return value

    def number(self, key: str, low: int, high: int) -> int | None:
        """Return an integer from `low` to `high`, or None."""
        return self._integer(key, self.values[key], low, high) if self.has(key) else None

    def needed_number(self, key: str, low: int, high: int) -> int:
        """Return an integer from `low` to `high` that must be there."""
        self.need(key)
        return self._integer(key, self.values[key], low, high)

    def choice(self, key: str, known: Mapping[str, Value]) -> Value:
        """Return what a word stands for that must be there and known."""
        return self.known(key, self.needed_text(key), known)

    def known(self, key: str, word: str, known: Mapping[str, Value]) -> Value:
        """Return what a word stands for."""
        if word not in known:
            self.fail(key, f"{shown(word)} is unknown{suggestion(word, known)}")
        return known[word]

    # -- arrays and objects ------------------------------------------------------------------------------------------

    def _array(self, key: str) -> list[object]:
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(key, f"{shown(value)} is not an array")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of strings."""
        return tuple(self._text(f"{key}[{index}]", value) for index, value in enumerate(self._array(key)))

    def absolutes(self, key: str) -> tuple[str, ...]:
        """Return an array of absolute paths."""
        paths = self.texts(key)
        for index, path in enumerate(paths):
            if not path.startswith("/"):
                self.fail(f"{key}[{index}]", f"{shown(path)} is not an absolute path")
        return paths

    def words(self, key: str, known: Mapping[str, Value]) -> tuple[Value, ...]:
        """Return what the words of an array stand for."""
        return tuple(self.known(f"{key}[{index}]", word, known) for index, word in enumerate(self.texts(key)))

    def numbers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Return an array of integers from `low` to `high`."""
        values = enumerate(self._array(key))
        return tuple(self._integer(f"{key}[{index}]", value, low, high) for index, value in values)

    def fields(self, key: str) -> Fields:
        """Return an object, an empty one if there is none."""
        value = self.values.get(key)
        return Fields.of(self.source, self.at(key), {} if value is None else value)

    def each(self, key: str, read: Callable[[Fields], Value]) -> tuple[Value, ...]:
        """Return what `read` makes of each object of an array."""
        values = enumerate(self._array(key))
        return tuple(read(Fields.of(self.source, self.at(f"{key}[{index}]"), value)) for index, value in values)

    def items(self, key: str) -> Iterator[tuple[str, Fields]]:
        """Yield the entries of an object whose values are objects."""
        inner = self.fields(key)
        for name in inner.names():
            yield name, inner.fields(name)

    def names(self) -> tuple[str, ...]:
        """Return the keys, which are names that the document chose."""
        for name in self.values:
            fault = "is empty" if name == "" else _text_fault(name)
            if fault:
                self.fail(name, f"the name {shown(name)} {fault}")
        return tuple(self.values)

    def pairs(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings."""
        inner = self.fields(key)
        return {name: inner._text(name, inner.values[name]) for name in inner.names()}


def _no_twins(source: str) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) < len(pairs):
            counts = dict.fromkeys(built, 0)
            for key, _ in pairs:
                counts[key] += 1
            twin = next(key for key, count in counts.items() if count > 1)
            raise ContainerError(source, 0, f"{shown(twin)}: the key is there twice in one object")
        return built

    return build


def load(path: str, source: str) -> object:
    """Return the document in a file.

    Raises: ContainerError if it cannot be read, is too long or no JSON, or has an object with the same key twice.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise ContainerError(source, getattr(error, "errno", None) or 0, shown(path)) from error
    return parse(content, source)


def parse(content: bytes, source: str) -> object:
    """Return a document that was read already. Raises ContainerError as `load` does."""
    import json

    def refuse(word: str) -> NoReturn:
        raise ContainerError(source, 0, f"{word} is no number of JSON")

    if len(content) > MAX_BYTES:
        raise ContainerError(source, 0, f"longer than {MAX_BYTES} bytes")
    try:
        text = content.decode()
        document: object = json.loads(text, object_pairs_hook=_no_twins(source), parse_constant=refuse)
    except RecursionError:
        raise ContainerError(source, 0, "nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are, and so is a number of too many digits
        raise ContainerError(source, 0, f"not a JSON document: {error}") from error
    return document

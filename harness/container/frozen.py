"""Frozen records: what `dataclass(frozen=True, slots=True)` gives, but defined in 15 us instead of 700.

A start of `harness-oci` defines fifty of them, and `dataclasses` itself imports `inspect`: together half of what the
command line took. A type checker sees a dataclass (PEP 681).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

TYPE_CHECKING = False  # as typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeVar, dataclass_transform

    FrozenT = TypeVar("FrozenT", bound="Frozen")
else:

    def dataclass_transform(**_options: object) -> object:
        return lambda made: made


EMPTY: Mapping[Any, Any] = MappingProxyType({})
"""The default of a field that is a mapping."""


@dataclass_transform(frozen_default=True)
class _FrozenType(type):
    """Turns annotations into slots, in their order, and values given to them into defaults.

    What comes after `_: KW_ONLY` is given by name.
    """

    if TYPE_CHECKING:
        _puts: list[Any]
        _defaults: Mapping[str, Any]
        _positional: int
        _all: int

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _FrozenType:
        named = body.get("__annotations__", {})
        names = tuple(name for name in named if name != "_")
        defaults = {name: body.pop(name) for name in names if name in body}
        body["__slots__"] = body["__match_args__"] = names
        made = super().__new__(mcs, name, bases, body)
        made._puts = [getattr(made, name).__set__ for name in names]  # the only way into a record that does not change
        made._defaults = defaults
        made._positional = list(named).index("_") if "_" in named else len(names)
        made._all = -1 if "_" in named else len(names)  # of values that need no sorting
        return made


class Frozen(metaclass=_FrozenType):
    """Base of records. Values are positional or by name; equality, hash and repr go by all of them."""

    if TYPE_CHECKING:
        _puts: ClassVar[list[Any]]
        __match_args__: ClassVar[tuple[str, ...]]
        _defaults: ClassVar[Mapping[str, Any]]
        _positional: ClassVar[int]
        _all: ClassVar[int]

    def __init__(self, *values: object, **named: object) -> None:
        kind = type(self)
        if named or len(values) != kind._all:
            values = kind._arranged(values, named)
        for put, value in zip(kind._puts, values, strict=True):
            put(self, value)

    @classmethod
    def _arranged(cls, values: tuple[object, ...], named: dict[str, object]) -> tuple[object, ...]:
        """Return all values in the order of the fields. Raises TypeError for what does not fit."""
        name = cls.__name__
        if len(values) > cls._positional:
            raise TypeError(f"{name}: {len(values)} values by position, of {cls._positional}")
        given = dict(zip(cls.__match_args__, values, strict=False))
        if twice := given.keys() & named.keys():
            raise TypeError(f"{name}: given twice: {', '.join(sorted(twice))}")
        if unknown := named.keys() - set(cls.__match_args__):
            raise TypeError(f"{name}: no such field: {', '.join(sorted(unknown))}")
        found = {**cls._defaults, **named, **given}
        if missing := [field for field in cls.__match_args__ if field not in found]:
            raise TypeError(f"{name}: missing: {', '.join(missing)}")
        return tuple([found[field] for field in cls.__match_args__])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name}: records do not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name}: records do not change")

    def __eq__(self, other: object) -> bool:
        return values(self) == values(other) if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(values(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__match_args__)})"


def field_names(kind: type[Frozen]) -> tuple[str, ...]:
    """Return the names of a record's fields, in their order."""
    return kind.__match_args__


def values(record: Frozen) -> tuple[Any, ...]:
    """Return a record's values, in the order of its fields."""
    return tuple([getattr(record, name) for name in record.__match_args__])


def replace(record: FrozenT, **changes: Any) -> FrozenT:
    """Return the record with other values in some of its fields."""
    return type(record)(**{name: getattr(record, name) for name in record.__match_args__} | changes)


def as_dict(record: Frozen) -> dict[str, Any]:
    """Return a record as a dictionary by field, as json can write it; records in it stay what they are."""
    named = zip(record.__match_args__, values(record), strict=True)
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in named}

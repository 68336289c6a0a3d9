"""Turn what pydantic found into problems that a person can act on: the place in the file, plain words, a suggestion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from harness.errors import Problem
from harness.model.document import Document, Loc, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
}


def problems(document: Document, error: ValidationError, model: type[BaseModel], prefix: Loc = ()) -> list[Problem]:
    """Return every mistake of `error` at its place; `prefix` is where in the document `model` begins."""
    return [_problem(document, detail, model, prefix) for detail in error.errors(include_url=False)]


def _problem(document: Document, detail: ErrorDetails, model: type[BaseModel], prefix: Loc) -> Problem:
    kind = detail["type"]
    inner = detail["loc"]
    loc = (*prefix, *inner)
    if kind == "extra_forbidden":
        suggestion = did_you_mean(str(inner[-1]), _keys_at(model, inner[:-1]))
        return document.problem(loc, f"unknown key{suggestion}", code="unknown_key", at="key")
    if kind == "missing":
        return document.problem(loc, "missing: this key is required", code="missing")
    if inner and inner[-1] == "[key]":
        return document.problem(loc[:-1], _message(detail), code="invalid_name", at="key")
    return document.problem(loc, _message(detail), code=kind)


def _shown(value: Any) -> str:
    """Return a value as a message shows it: scalars whole, the rest by what they are."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _message(detail: ErrorDetails) -> str:
    kind, value = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_shown(value)}"
    special: dict[str, Callable[[], str]] = {
        "string_type": lambda: f"expected a string, got {_shown(value)}{_quote(value)}",
        "value_error": lambda: str(context["error"]),
        "literal_error": lambda: f"expected {context['expected']}, got {_shown(value)}{_near(value, context)}",
        "string_pattern_mismatch": lambda: f"expected {_pattern_words(context['pattern'])}, got {_shown(value)}",
        "greater_than": lambda: f"expected more than {context['gt']}, got {_shown(value)}",
        "greater_than_equal": lambda: f"expected at least {context['ge']}, got {_shown(value)}",
        "less_than": lambda: f"expected less than {context['lt']}, got {_shown(value)}",
        "less_than_equal": lambda: f"expected at most {context['le']}, got {_shown(value)}",
        "too_short": lambda: f"expected at least {context['min_length']} entry, got {context['actual_length']}",
        "string_too_short": lambda: "expected some text, got nothing",
        "string_too_long": lambda: f"expected at most {context['max_length']} characters, got {len(str(value))}",
    }
    if kind in special:
        return special[kind]()
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {_shown(value)}"


def _quote(value: Any) -> str:
    """Say how a number or a truth value becomes a string; YAML read it as something else."""
    if isinstance(value, bool | int | float):
        return f'; put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    return ""


def _near(value: Any, context: Mapping[str, Any]) -> str:
    words = str(context["expected"]).replace(" or ", ", ").split(", ")
    suggestion = did_you_mean(str(value), [word.strip("'") for word in words])
    return "" if suggestion.startswith("; known") else suggestion


def _pattern_words(pattern: str) -> str:
    """Put the patterns that scenarios use into words."""
    if pattern == r"^[a-z0-9][a-z0-9-]*$":
        return "a name of lower-case letters, digits and dashes"
    return f"something that matches {pattern}"


def _keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys that are allowed at `loc` below a model; empty where that cannot be told."""
    current: Any = model
    for part in loc:
        current = _step(current, part)
    if not _is_model(current):
        return []
    return [info.alias or name for name, info in current.model_fields.items()]


def _step(current: Any, part: str | int) -> Any:
    """Return the type below `current` at one key or index."""
    if _is_model(current):
        fields = {info.alias or name: info.annotation for name, info in current.model_fields.items()}
        return _unwrap(fields.get(str(part)))
    arguments = get_args(current)
    return _unwrap(arguments[-1] if get_origin(current) is dict else arguments[0]) if arguments else None


def _unwrap(annotation: Any) -> Any:
    """Return X of `X | None`."""
    if get_origin(annotation) in {UnionType, Union}:
        rest = [argument for argument in get_args(annotation) if argument is not type(None)]
        return rest[0] if len(rest) == 1 else None
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)

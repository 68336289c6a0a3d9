"""Types for options that people write: each takes `256MiB`, `30s` or `5%` and holds the converted number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from harness.model.units import parse_duration_ns, parse_ratio, parse_size_bytes

# A program, its libraries and its stack do not fit into less.
MIN_MEMORY_BYTES = 1 << 20


class Strict(BaseModel):
    """Base of what a scenario may hold: no unknown key, no guessed conversion (`"3"` is not 3), no change later."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def exactly_one(model: BaseModel, names: Iterable[str]) -> None:
    """Raise ValueError unless exactly one of these fields was given."""
    names = tuple(names)
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        what = f"got {' and '.join(given)}" if given else "got none"
        raise ValueError(f"expected exactly one of {', '.join(names)}, {what}")


def to_tuple(value: Any) -> Any:
    """Return a list of the file as the tuple of a frozen model."""
    return tuple(value) if isinstance(value, list) else value


def _memory_bytes(value: Any) -> int:
    """Return a limit of memory, in bytes; a bare number of a few hundred was meant in MiB, and is not guessed."""
    size_bytes = parse_size_bytes(value)
    if size_bytes < MIN_MEMORY_BYTES:
        meant = f"; did you mean {value}MiB?" if str(value).isdigit() and size_bytes else ""
        raise ValueError(f"expected at least 1MiB, got {value!r} (bytes where no unit is given){meant}")
    return size_bytes


def _ratio(value: Any) -> float:
    """Return a share; a bare number between 1 and 100 was meant in percent, and is not guessed."""
    ratio = parse_ratio(value)
    if 1 <= ratio < 100 and "%" not in str(value):
        raise ValueError(f"expected less than 1, got {value!r}; did you mean {value}%?")
    return ratio


_SIZE_SCHEMA = {"type": ["string", "integer"], "description": "a size: 256MiB, 1GiB, or bytes"}
SizeBytes = Annotated[
    int,
    BeforeValidator(parse_size_bytes),
    WithJsonSchema(_SIZE_SCHEMA),
]
MemoryBytes = Annotated[int, BeforeValidator(_memory_bytes), WithJsonSchema(_SIZE_SCHEMA)]
DurationNs = Annotated[
    int,
    BeforeValidator(parse_duration_ns),
    WithJsonSchema({"type": ["string", "number"], "description": "a duration: 30s, 250ms, 1m30s, or seconds"}),
]
Ratio = Annotated[
    float,
    BeforeValidator(_ratio),
    WithJsonSchema({"type": ["string", "number"], "description": "a share: 5% or 0.05"}),
]
# A list in the file, a tuple in the frozen model.
Strings = Annotated[tuple[str, ...], BeforeValidator(to_tuple)]
Port = Annotated[int, Field(ge=1, le=65535)]

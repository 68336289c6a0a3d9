"""Types for options that people write: each takes `256MiB`, `30s` or `5%` and holds the converted number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from harness.model.units import parse_duration_ns, parse_ratio, parse_size_bytes


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


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


SizeBytes = Annotated[
    int,
    BeforeValidator(parse_size_bytes),
    WithJsonSchema({"type": ["string", "integer"], "description": "a size: 256MiB, 1GiB, or bytes"}),
]
DurationNs = Annotated[
    int,
    BeforeValidator(parse_duration_ns),
    WithJsonSchema({"type": ["string", "number"], "description": "a duration: 30s, 250ms, 1m30s, or seconds"}),
]
Ratio = Annotated[
    float,
    BeforeValidator(parse_ratio),
    WithJsonSchema({"type": ["string", "number"], "description": "a share: 5% or 0.05"}),
]
# A list in the file, a tuple in the frozen model.
Strings = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
Port = Annotated[int, Field(ge=1, le=65535)]

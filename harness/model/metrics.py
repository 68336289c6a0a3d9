"""What a measured quantity is: its unit, which way is better, and how it may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Value = int | float


class Unit(StrEnum):
    NS = "ns"
    BYTES = "bytes"
    COUNT = "count"
    BOOL = "bool"
    RATIO = "ratio"
    BYTES_PER_S = "bytes/s"
    PER_S = "1/s"


class Better(StrEnum):
    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Assume(StrEnum):
    """NOTHING: a noisy quantity, compared with statistics. EXACT: a property, any difference is a finding."""

    NOTHING = "nothing"
    EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Metric:
    """A definition. `name` is dotted, family first (`startup.ready`); `doc` says from where to where."""

    name: str
    unit: Unit
    better: Better
    doc: str
    assume: Assume = Assume.NOTHING


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value that was really measured; `labels` hold what explains it (names behind a count)."""

    metric: Metric
    value: Value
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Absent:
    """A value that could not be had, and why. Missing is not zero."""

    metric: Metric
    reason: str

"""Sizes, durations and ratios as people write them, to the integers that the code uses, and back."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B?)?\s*", re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s|m|h)\s*")
_DURATION = re.compile(rf"\s*(?:{_DURATION_PART.pattern})+")
_RATIO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")
_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def _text(value: object, expected: str) -> str:
    """Return what a person wrote as text. Raises: ValueError for what is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected {expected}, got {value!r}")
    return value if isinstance(value, str) else format(Decimal(str(value)), "f")


def parse_size_bytes(value: object) -> int:
    """Return a size in bytes: `256MiB` and `256M` are 2^20 steps (as Docker reads them), `256MB` is 10^6 steps.

    Raises: ValueError with what was expected.
    """
    match = _SIZE.fullmatch(_text(value, "a size such as 256MiB"))
    if not match:
        raise ValueError(f"expected a size such as 256MiB, got {value!r}")
    number, suffix = match.group(1), (match.group(2) or "").lower()
    base = 1000 if suffix.endswith("b") and not suffix.endswith("ib") and len(suffix) > 1 else 1024
    power = _POWER["" if suffix in {"", "b"} else suffix[0]]
    return round(Decimal(number) * Decimal(base) ** power)


def parse_duration_ns(value: object) -> int:
    """Return a duration in ns: `30s`, `1m30s`, `250ms`; a bare number counts seconds.

    Raises: ValueError with what was expected.
    """
    text = _text(value, "a duration such as 30s").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return round(Decimal(text) * 10**9)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"expected a duration such as 30s, got {value!r}")
    return sum(round(Decimal(number) * _NS[unit]) for number, unit in _DURATION_PART.findall(text))


def parse_ratio(value: object) -> float:
    """Return `5%` or 0.05 as 0.05. Raises: ValueError with what was expected."""
    match = _RATIO.fullmatch(_text(value, "a percentage such as 5%"))
    if not match:
        raise ValueError(f"expected a percentage such as 5%, got {value!r}")
    return float(Decimal(match.group(1)) / (100 if match.group(2) else 1))


def _significant(value: float) -> str:
    """Return `value` with three significant digits and no exponent; whole numbers above 1000 keep all of theirs."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    rounded = float(f"{value:.2e}")
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def format_ns(value_ns: float) -> str:
    """Return a duration for people: `1.91 s`, `142 ms`, `87.5 µs`."""
    for scale, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if float(f"{abs(value_ns):.2e}") >= scale:
            return f"{_significant(value_ns / scale)} {unit}"
    return f"{value_ns:.0f} ns"


def format_bytes(value_bytes: float) -> str:
    """Return a size for people, IEC prefixes: `8.90 MiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if round(abs(value_bytes) / 1024 ** (power - 1)) >= 1024:
            return f"{_significant(value_bytes / 1024**power)} {unit}"
    return f"{value_bytes:.0f} B"


def format_ratio(ratio: float) -> str:
    """Return a ratio for people: `416x`, `13.4x`, `1.91x`, `0.028x`."""
    if ratio < 0.1:
        return f"{ratio:.2g}x"
    return f"{ratio:.0f}x" if ratio >= 999.5 else f"{ratio:#.3g}".rstrip(".") + "x"

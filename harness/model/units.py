"""Sizes, durations and ratios as people write them, to the integers that the code uses, and back."""

from __future__ import annotations

import re

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|[KMGT]i?B?)?\s*$", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s|m|h)")
_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size_bytes(text: str | int) -> int:
    """Return a size in bytes: `256MiB` and `256M` are 2^20 steps (as Docker reads them), `256MB` is 10^6 steps.

    Raises: ValueError with what was expected.
    """
    match = _SIZE.match(str(text))
    if not match:
        raise ValueError(f"expected a size such as 256MiB, got {text!r}")
    number, suffix = match.group(1), (match.group(2) or "").lower()
    base = 1000 if suffix.endswith("b") and not suffix.endswith("ib") and len(suffix) > 1 else 1024
    power = _POWER["" if suffix in {"", "b"} else suffix[0]]
    return round(float(number) * base**power)


def parse_duration_ns(text: str | float) -> int:
    """Return a duration in ns: `30s`, `1m30s`, `250ms`; a bare number counts seconds.

    Raises: ValueError with what was expected.
    """
    if isinstance(text, int | float):
        return round(text * 10**9)
    stripped = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", stripped):
        return round(float(stripped) * 10**9)
    if not stripped or _DURATION.sub("", stripped).strip():
        raise ValueError(f"expected a duration such as 30s, got {text!r}")
    return sum(round(float(number) * _NS[unit]) for number, unit in _DURATION.findall(stripped))


def parse_ratio(text: str | float) -> float:
    """Return `5%` or 0.05 as 0.05. Raises: ValueError with what was expected."""
    if isinstance(text, str) and text.strip().endswith("%"):
        return float(text.strip()[:-1]) / 100
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a percentage such as 5%, got {text!r}") from None


def _significant(value: float, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits and no exponent."""
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, digits - magnitude)}f}"


def format_ns(value_ns: float) -> str:
    """Return a duration for people: `1.91 s`, `142 ms`, `87.5 µs`."""
    for limit, scale, unit in ((1e9, 1e9, "s"), (1e6, 1e6, "ms"), (1e3, 1e3, "µs")):
        if abs(value_ns) >= limit:
            return f"{_significant(value_ns / scale)} {unit}"
    return f"{value_ns:.0f} ns"


def format_bytes(value_bytes: float) -> str:
    """Return a size for people, IEC prefixes: `8.9 MiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value_bytes) >= 1024**power:
            return f"{_significant(value_bytes / 1024**power)} {unit}"
    return f"{value_bytes:.0f} B"

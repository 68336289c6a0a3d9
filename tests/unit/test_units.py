"""Sizes, durations and ratios, as people write them and as they read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.units import format_bytes, format_ns, parse_duration_ns, parse_ratio, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256MiB", 256 << 20), ("256M", 256 << 20), ("256m", 256 << 20), ("256MB", 256_000_000), ("1GiB", 1 << 30),
        ("1.5GiB", 3 << 29), ("4096", 4096), (4096, 4096), ("12 B", 12), ("1kB", 1000), ("1KiB", 1024),
    ],
)  # fmt: skip
def test_size(text, expected):
    assert parse_size_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30 * 10**9), ("250ms", 250_000_000), ("1m30s", 90 * 10**9), ("1m 30s", 90 * 10**9),
        ("10", 10**10), (10, 10**10), (0.5, 500_000_000), ("1.5us", 1500), ("1µs", 1000), (1e-9, 1),
        ("2h", 7200 * 10**9),
    ],
)  # fmt: skip
def test_duration(text, expected):
    assert parse_duration_ns(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("5%", 0.05), (" 2.5 % ", 0.025), (0.05, 0.05), ("0.1", 0.1), (1, 1.0)])
def test_ratio(text, expected):
    assert parse_ratio(text) == expected


@pytest.mark.parametrize("parse", [parse_size_bytes, parse_duration_ns, parse_ratio])
@pytest.mark.parametrize(
    "value", ["", "three", "-1", -1, True, None, [1], "1e9x", "nan", float("nan"), "5 parsecs", "%"]
)
def test_nonsense_is_refused_with_what_was_expected(parse, value):
    with pytest.raises(ValueError, match=r"^expected a .* such as "):
        parse(value)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_bytes_are_exact(number):
    assert parse_size_bytes(f"{number}B") == number


@given(st.integers(min_value=0, max_value=10**18))
def test_nanoseconds_are_exact(number):
    assert parse_duration_ns(f"{number}ns") == number


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (0, "0 ns"), (999, "999 ns"), (1000, "1.00 µs"), (87_512, "87.5 µs"), (142_000_000, "142 ms"),
        (999_600_000, "1.00 s"), (999_400_000, "999 ms"), (1_910_000_000, "1.91 s"), (99_960_000, "100 ms"),
        (3_661_000_000_000, "3661 s"), (-1_500_000, "-1.50 ms"),
    ],
)  # fmt: skip
def test_duration_for_people(value_ns, text):
    assert format_ns(value_ns) == text


@pytest.mark.parametrize(
    ("value_bytes", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1023.9 * 1024, "1.00 MiB"), (1010 * 1024, "1010 KiB"),
        (8.9 * 2**20, "8.90 MiB"), (214 * 2**20, "214 MiB"), (3 * 2**40, "3.00 TiB"),
    ],
)  # fmt: skip
def test_size_for_people(value_bytes, text):
    assert format_bytes(value_bytes) == text

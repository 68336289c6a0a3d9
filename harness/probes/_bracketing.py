"""Whose counters are these? Host-wide ones are read on the host, inside, and on the host again.

Identical contents prove nothing, since constants are the same in every kernel of a kind; a counter that rose on the
host meanwhile and whose value inside lies between the two readings is the host's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PATHS = (
    "/proc/stat", "/proc/vmstat", "/proc/meminfo", "/proc/interrupts", "/proc/softirqs", "/proc/loadavg",
    "/proc/uptime", "/proc/diskstats", "/proc/schedstat", "/proc/pressure/cpu", "/proc/pressure/io",
    "/proc/pressure/memory", "/proc/sys/fs/file-nr", "/proc/sys/fs/inode-nr", "/proc/sys/fs/dentry-state",
)  # fmt: skip
"""The host-wide ones of csrc/probe/view.c."""
VALUE_MIN = 1000
"""Smaller numbers lie between two others by chance."""
FIELDS_MIN = 5
_NUMBER = re.compile(r"\d+")
_KEPT_BYTES = 24 << 10  # as csrc/probe/view.c

Fields = Mapping[tuple[str, str, int], int]


def host_files(root: Path = Path("/")) -> dict[str, str]:
    """Return the files as the host sees them; what cannot be read is left out."""
    found = {}
    for path in PATHS:
        try:
            found[path] = (root / path.lstrip("/")).read_text(errors="replace")[:_KEPT_BYTES]
        except OSError:
            continue
    return found


def fields(files: Mapping[str, str]) -> Fields:
    """Return every number by file, by the first word of its line (or the line's place), and by its place in it."""
    found = {}
    for path, text in files.items():
        for place, line in enumerate(text.splitlines()):
            first = line.split(maxsplit=1)[0] if line.strip() else ""
            label = first if first and not first[0].isdigit() else str(place)
            for column, number in enumerate(_NUMBER.findall(line)):
                found[path, label, column] = int(number)
    return found


def bracketed(before: Fields, inside: Fields, after: Fields) -> tuple[int, int]:
    """Return (how many, of how many): counters that rose on the host, and those whose value inside lies between."""
    rose = [
        key for key, low in before.items()
        if low >= VALUE_MIN and after.get(key, 0) > low and key in inside
    ]  # fmt: skip
    return sum(before[key] <= inside[key] <= after[key] for key in rose), len(rose)

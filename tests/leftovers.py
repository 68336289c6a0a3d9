"""What tests can leave behind on a host: mounts, cgroups and guests.

    python -m tests.leftovers look FILE      before the tests
    python -m tests.leftovers compare FILE   after them: exit code 1 where something is left

For test sessions that run beside each other, of which none can tell what is its own. Paths and command lines name the
test that left it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

GRACE_S = 10.0


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ")[4] for line in lines}


def _cgroups() -> set[str]:
    roots = [
        line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line
    ]
    found = set()
    for root in roots:
        for path, names, _ in os.walk(root):  # groups of others come and go meanwhile: os.walk passes over them
            found |= {f"{path}/{name}" for name in names if name.startswith("harness")}
    return found


def _guests() -> set[str]:
    """QEMU processes; a pid alone is used again, so the start time (field 22 of /proc/PID/stat) goes with it."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
            command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "(qemu-system" in text:
            started = text.rpartition(")")[2].split()[19]
            found.add(f"qemu pid {stat.parent.name} started {started}: {command[:300]}")
    return found


def traces() -> set[str]:
    """Return what this host has of mounts, of cgroups named harness* and of QEMU processes, each in words."""
    return {f"mount {path}" for path in _mounts()} | {f"cgroup {path}" for path in _cgroups()} | {*_guests()}


def compare(before: set[str]) -> list[str]:
    """Return what is more than before, and which mounts are gone, in words; waits a moment for the kernel."""
    deadline_s = time.monotonic() + GRACE_S
    while (left := traces() - before) and time.monotonic() < deadline_s:
        time.sleep(0.1)  # the kernel removes cgroups and processes a moment after they were told to end
    gone = {trace for trace in before - traces() if trace.startswith("mount ")}
    return [*(f"left behind: {trace}" for trace in sorted(left)), *(f"taken away: {trace}" for trace in sorted(gone))]


def main() -> int:
    """Look, or compare with what was seen then; return the exit code."""
    verb, file = sys.argv[1:]
    if verb == "look":
        Path(file).write_text(json.dumps(sorted(traces())))
        return 0
    found = compare(set(json.loads(Path(file).read_text())))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

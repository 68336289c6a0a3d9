"""Runs inside a guest, which may trace its own kernel: two passes of a piece of work; stdout is one JSON object."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from harness.container import syscalls
from harness.probes import _ftrace
from harness.probes._surface import Missing

WORK = "read go; cat /proc/self/maps >/dev/null; ls / >/dev/null"


def passed(root: Path) -> _ftrace.Traced:
    """Return what a shell and its children run of the kernel, from when it is told to go."""
    with subprocess.Popen(["/bin/sh", "-c", WORK], stdin=subprocess.PIPE) as shell:

        def work() -> None:
            shell.communicate(b"go\n")

        return _ftrace.during(root, (shell.pid,), work)


def main() -> None:
    before = _ftrace.place()
    syscalls.mount("tracefs", "/sys/kernel/tracing", "tracefs", 0)
    root = _ftrace.place()
    assert isinstance(before, Missing)
    assert isinstance(root, Path)
    one, other = passed(root), passed(root)
    left = [path.name for path in (root / "instances").iterdir()]
    found = {
        "before": before.reason, "functions": sorted(one.functions), "both": len(one.functions & other.functions),
        "events": one.events, "lost": one.lost, "left": left,
    }  # fmt: skip
    print(json.dumps(found))


main()

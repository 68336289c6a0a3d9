"""The seccomp filters of host threads, as the kernel holds them: taken from outside, without asking the workload."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.agent.program import PATH as AGENT
from harness.errors import HarnessError
from harness.host.process import run
from harness.probes._bpf import Program, parse

_TIMEOUT_NS = 10_000_000_000
Programs = tuple[Program, ...]


def threads(pids: Sequence[int]) -> list[int]:
    """Return the threads of host processes; a process that has ended since has none."""
    found = []
    for pid in pids:
        try:
            found += [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
        except OSError:
            continue
    return sorted(found)


def inside(pids: Sequence[int], mount_namespace: str) -> list[int]:
    """Return the processes of an instance that see its mounts: not a shim or a monitor that serves it from outside."""
    found = []
    for pid in pids:
        try:
            if str(Path(f"/proc/{pid}/ns/mnt").readlink()) == mount_namespace:
                found.append(pid)
        except OSError:
            continue
    return found


def dump(tids: Sequence[int]) -> Mapping[int, Programs]:
    """Return the filters of each thread, newest first; threads that ended meanwhile are left out.

    Raises: HarnessError with the kernel's reason where filters cannot be had: that takes CAP_SYS_ADMIN, a tracer that
    is not filtered itself, and CONFIG_CHECKPOINT_RESTORE (ptrace(2), PTRACE_SECCOMP_GET_FILTER).
    """
    answer = run([str(AGENT), "--filters", *map(str, tids)], timeout_ns=_TIMEOUT_NS).stdout if tids else b"{}"
    found = {}
    for tid, entry in json.loads(answer).items():
        if entry["errno"] in {0}:
            found[int(tid)] = tuple(parse(bytes.fromhex(text)) for text in entry["filters"])
        elif entry["errno"] != errno.ESRCH:
            raise HarnessError(f"filters of thread {tid}: {os.strerror(entry['errno'])}")
    return found

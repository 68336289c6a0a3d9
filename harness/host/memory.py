"""What this host's memory and CPU time went to: /proc/meminfo, the maps of processes, KSM, CPU clocks.

Nothing here knows of instances. All sizes are bytes; the unit kB of these files is 1024 bytes.
Source: Documentation/filesystems/proc.rst, Documentation/mm/ksm.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024
_SIZES = {"Pss": "pss", "Rss": "rss", "Private_Clean": "uss", "Private_Dirty": "uss", "Private_Hugetlb": "uss"}
_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ ([rwxsp-]{4}) \S+ \S+ (\d+) *(.*)$")
_TICK_FIELDS = 8
_BUSY_FIELDS = (0, 1, 2, 5, 6)
"""Of a `cpu` line of /proc/stat: user, nice, system, irq, softirq; not idle, iowait, and what a hypervisor stole."""
KSM = Path("/sys/kernel/mm/ksm")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sums over processes or mappings: proportional, resident, and what no other process maps."""

    pss: int = 0
    rss: int = 0
    uss: int = 0

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.pss + other.pss, self.rss + other.rss, self.uss + other.uss)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping of a process. `file` is the path or name behind it, empty for anonymous memory."""

    size_bytes: int
    executable: bool
    file: str
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class HostMemory:
    """`used_bytes` is all that is neither free nor page cache; tmpfs is used, not cache: no reclaim gives it back."""

    total_bytes: int
    available_bytes: int
    used_bytes: int
    cache_bytes: int


def _numbers(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    for text in lines:
        key, _, rest = text.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            yield key, int(words[0]) * _KIB


def parse_meminfo(text: str) -> HostMemory:
    """Return what a /proc/meminfo says."""
    found = dict(_numbers(text.splitlines()))
    cache = found["Cached"] + found["Buffers"] - found["Shmem"]
    return HostMemory(found["MemTotal"], found["MemAvailable"], found["MemTotal"] - found["MemFree"] - cache, cache)


def read_host() -> HostMemory:
    """Return the host's memory now.

    Each CPU keeps up to 125 pages of every counter to itself; reading vm.stat_refresh (root alone may) adds them up.
    """
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/stat_refresh").read_bytes()
    return parse_meminfo(Path("/proc/meminfo").read_text())


def parse_rollup(text: str) -> Sizes:
    """Return the sizes in a /proc/PID/smaps_rollup (Linux 4.14)."""
    totals = {"pss": 0, "rss": 0, "uss": 0}
    for key, size_bytes in _numbers(text.splitlines()):
        if key in _SIZES:
            totals[_SIZES[key]] += size_bytes
    return Sizes(**totals)


def parse_smaps(text: str) -> list[Mapping]:
    """Return the mappings in a /proc/PID/smaps."""
    found: list[Mapping] = []
    head, body = None, []
    for line in [*text.splitlines(), "0-0 ---p 0 0:0 0"]:
        match = _HEAD.match(line)
        if match is None:
            body.append(line)
            continue
        if head is not None:
            size_bytes = next((number for key, number in _numbers(body) if key == "Size"), 0)
            file = head[3] if head[2] != "0" or head[3].startswith("[") else ""
            found.append(Mapping(size_bytes, "x" in head[1], file, parse_rollup("\n".join(body))))
        head, body = match, []
    return found


def read_smaps(pid: int) -> list[Mapping]:
    """Return the mappings of a process; none where it has ended."""
    try:
        return parse_smaps(Path(f"/proc/{pid}/smaps").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return []


def read_sizes(pids: Sequence[int]) -> Sizes:
    """Return the sums over `pids`; a process that has ended meanwhile holds no memory and counts nothing."""
    total = Sizes()
    for pid in pids:
        try:
            total += parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def ksm_saved_bytes(ksm: Path = KSM) -> int | None:
    """Return what merging equal pages saves on this host: pages that share another one. None where there is no KSM."""
    try:
        return int((ksm / "pages_sharing").read_text()) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def cpu_ns(pids: Sequence[int]) -> int:
    """Return the CPU time of processes up to now, of all their threads; one that has ended counts nothing.

    The clock of another process: its pid inverted, then CPUCLOCK_SCHED (include/linux/posix-timers.h). Unlike
    /proc/PID/stat it does not count in ticks of 10 ms.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~pid << 3) | 2)
    return total


def host_cpu_ns() -> int:
    """Return the CPU time that all of the host used up to now, in steps of a tick (10 ms)."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1 : 1 + _TICK_FIELDS]
    ticks = sum(int(fields[place]) for place in _BUSY_FIELDS)
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def waiting_for_memory_us() -> int | None:
    """Return how long some task of the host has waited for memory so far (PSI); None where it is not counted."""
    try:
        text = Path("/proc/pressure/memory").read_text()
    except OSError:  # no PSI in the kernel, or switched off at boot
        return None
    return next((int(line.rpartition("total=")[2]) for line in text.splitlines() if line.startswith("some ")), None)

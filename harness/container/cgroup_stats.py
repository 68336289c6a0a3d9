"""What a group used: the counters of cgroup v1 and v2 in one shape.

None is "this host does not tell", never zero; a limit of -1 is "no limit". CPU time is in v1's `cpuacct`; the cgroup2
tree of a hybrid host counts it, and pressure, without any controller.

Source: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst; Documentation/accounting/psi.rst of the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from harness.container import cgroupfs
from harness.container.frozen import Frozen

_NO_LIMIT_FROM = (1 << 63) - (1 << 16)  # v1 says the largest multiple of a page that 63 bits hold (pages up to 64 KiB)


class CpuStats(Frozen):
    usage_ns: int | None = None
    user_ns: int | None = None
    system_ns: int | None = None
    periods_count: int | None = None
    throttled_count: int | None = None
    throttled_ns: int | None = None


class MemoryStats(Frozen):
    usage_bytes: int | None = None
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    anon_bytes: int | None = None
    file_bytes: int | None = None
    kernel_bytes: int | None = None
    swap_bytes: int | None = None
    oom_kills_count: int | None = None


class PidsStats(Frozen):
    current_count: int | None = None
    limit_count: int | None = None


class DeviceStats(Frozen):
    """What went to and from one block device; an operation is one request."""

    major: int
    minor: int
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_count: int | None = None
    write_count: int | None = None


class HugetlbStats(Frozen):
    size: str  # "2MB"
    usage_bytes: int | None = None
    limit_bytes: int | None = None
    failures_count: int | None = None


class PressureStats(Frozen):
    """Time in which some, or all, processes waited (psi.rst); no line "full" for the CPU before Linux 5.13."""

    some_ns: int
    full_ns: int | None


class Stats(Frozen):
    """All of a group and those below it. `io` and `hugetlb` are None where the controller is missing."""

    cpu: CpuStats
    memory: MemoryStats
    pids: PidsStats
    io: tuple[DeviceStats, ...] | None
    hugetlb: tuple[HugetlbStats, ...] | None
    pressure: Mapping[str, PressureStats]


class Places(Frozen):
    """A group's directories: by controller, with the version of its tree; and the one in the cgroup2 tree."""

    of: Callable[[str], tuple[str, int] | None]
    unified: str | None


def read(places: Places) -> Stats:
    """Return the counters now; a group that is gone tells nothing."""
    return Stats(
        cpu=_cpu(places), memory=_memory(places), pids=_pids(places), io=_io(places), hugetlb=_hugetlb(places),
        pressure=_pressure(places.unified),
    )  # fmt: skip


def _stat(path: str) -> dict[str, int]:
    return cgroupfs.parse_stat(cgroupfs.read(path) or "")


def _limit(path: str) -> int | None:
    """Return a limit, -1 for none, None where there is no file."""
    text = (cgroupfs.read(path) or "").strip()
    if not text:
        return None
    return -1 if text == "max" or int(text) >= _NO_LIMIT_FROM else int(text)


def _times(number: int | None, factor: int) -> int | None:
    return None if number is None else number * factor


def _cpu(places: Places) -> CpuStats:
    at = places.of("cpu")
    counters = _stat(f"{at[0]}/cpu.stat") if at else {}
    v1_ns, v2_us = counters.get("throttled_time"), counters.get("throttled_usec")
    throttled_ns = v1_ns if at and at[1] == 1 else _times(v2_us, 1000)
    usage_ns, user_ns, system_ns = _cpu_times(places)
    return CpuStats(
        usage_ns, user_ns, system_ns, counters.get("nr_periods"), counters.get("nr_throttled"), throttled_ns
    )


def _cpu_times(places: Places) -> tuple[int | None, int | None, int | None]:
    at = places.of("cpuacct")
    if at is not None:
        files = (cgroupfs.read_number(f"{at[0]}/cpuacct.{name}") for name in ("usage", "usage_user", "usage_sys"))
        usage, user, system = files
        return usage, user, system
    counters = _stat(f"{places.unified}/cpu.stat") if places.unified else {}
    usage, user, system = (_times(counters.get(f"{name}_usec"), 1000) for name in ("usage", "user", "system"))
    return usage, user, system


def _memory(places: Places) -> MemoryStats:
    at = places.of("memory")
    if at is None:
        return MemoryStats()
    directory, version = at
    stat = _stat(f"{directory}/memory.stat")
    if version == 1:
        return MemoryStats(
            usage_bytes=cgroupfs.read_number(f"{directory}/memory.usage_in_bytes"),
            limit_bytes=_limit(f"{directory}/memory.limit_in_bytes"),
            peak_bytes=cgroupfs.read_number(f"{directory}/memory.max_usage_in_bytes"),
            anon_bytes=stat.get("total_rss"), file_bytes=stat.get("total_cache"),
            kernel_bytes=cgroupfs.read_number(f"{directory}/memory.kmem.usage_in_bytes"),
            swap_bytes=stat.get("total_swap"),
            oom_kills_count=_stat(f"{directory}/memory.oom_control").get("oom_kill"),
        )  # fmt: skip
    return MemoryStats(
        usage_bytes=cgroupfs.read_number(f"{directory}/memory.current"),
        limit_bytes=_limit(f"{directory}/memory.max"),
        peak_bytes=cgroupfs.read_number(f"{directory}/memory.peak"),
        anon_bytes=stat.get("anon"), file_bytes=stat.get("file"), kernel_bytes=stat.get("kernel"),
        swap_bytes=cgroupfs.read_number(f"{directory}/memory.swap.current"),
        oom_kills_count=_stat(f"{directory}/memory.events").get("oom_kill"),
    )  # fmt: skip


def _pids(places: Places) -> PidsStats:
    at = places.of("pids")
    if at is None:
        return PidsStats()
    return PidsStats(cgroupfs.read_number(f"{at[0]}/pids.current"), _limit(f"{at[0]}/pids.max"))


def _io(places: Places) -> tuple[DeviceStats, ...] | None:
    if (at := places.of("blkio")) is not None:
        files = (f"{at[0]}/blkio.throttle.{name}_recursive" for name in ("io_service_bytes", "io_serviced"))
        sizes, counts = (cgroupfs.read(path) for path in files)
        return None if sizes is None else parse_blkio(sizes, counts or "")
    if (at := places.of("io")) is not None:
        text = cgroupfs.read(f"{at[0]}/io.stat")
        return None if text is None else parse_io(text)
    return None


def parse_blkio(sizes: str, counts: str) -> tuple[DeviceStats, ...]:
    """Return the devices of two files of v1: lines "major:minor Read|Write|... number", and one "Total number"."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for text, unit in ((sizes, "bytes"), (counts, "count")):
        for words in map(str.split, text.splitlines()):
            if len(words) == 3 and words[1] in {"Read", "Write"}:
                major, _, minor = words[0].partition(":")
                device = found.setdefault((int(major), int(minor)), {})
                device[f"{words[1].lower()}_{unit}"] = int(words[2])
    return tuple(DeviceStats(*numbers, **counters) for numbers, counters in sorted(found.items()))


def parse_io(text: str) -> tuple[DeviceStats, ...]:
    """Return the devices of io.stat: lines "major:minor rbytes=1 wbytes=2 rios=3 wios=4 ..."."""
    found = []
    for words in map(str.split, text.splitlines()):
        major, _, minor = words[0].partition(":")
        counters = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        numbers = (int(counters[name]) if name in counters else None for name in ("rbytes", "wbytes", "rios", "wios"))
        found.append(DeviceStats(int(major), int(minor), *numbers))
    return tuple(found)


def _hugetlb(places: Places) -> tuple[HugetlbStats, ...] | None:
    at = places.of("hugetlb")
    if at is None:
        return None
    directory, version = at
    usage, limit = ("usage_in_bytes", "limit_in_bytes") if version == 1 else ("current", "max")
    found = []
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        parts = name.split(".")
        if len(parts) == 3 and parts[0] == "hugetlb" and parts[2] == usage:
            base = f"{directory}/hugetlb.{parts[1]}"
            v1, v2 = cgroupfs.read_number(f"{base}.failcnt"), _stat(f"{base}.events").get("max")
            used, most = cgroupfs.read_number(f"{base}.{usage}"), _limit(f"{base}.{limit}")
            found.append(HugetlbStats(parts[1], used, most, v1 if version == 1 else v2))
    return tuple(found)


def _pressure(unified: str | None) -> dict[str, PressureStats]:
    texts = {name: cgroupfs.read(f"{unified}/{name}.pressure") for name in ("cpu", "memory", "io")} if unified else {}
    return {name: pressure for name, text in texts.items() if text and (pressure := parse_pressure(text))}


def parse_pressure(text: str) -> PressureStats | None:
    """Return the totals of a pressure file: lines "some avg10=0.00 ... total=MICROSECONDS" and "full ..."."""
    totals = {words[0]: int(words[-1].removeprefix("total=")) * 1000 for words in map(str.split, text.splitlines())}
    return PressureStats(totals["some"], totals.get("full")) if "some" in totals else None

"""What `events` prints: a group's counters in the form that runc gave them and containerd reads."""

from __future__ import annotations

from harness.container.cgroup_stats import DeviceStats, Stats
from harness.container.errors import ContainerError
from harness.container.frozen import as_dict

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration_s(text: str) -> float:
    """Return a duration such as `5s` or `100ms` in seconds. Raises ContainerError."""
    digits = text.rstrip("nusmh")
    unit = _UNITS_S.get(text[len(digits) :])
    if unit is None or not digits.replace(".", "", 1).isdigit() or float(digits) * unit <= 0:
        raise ContainerError("--interval", 0, f"{text}: a duration such as 5s or 100ms")
    return float(digits) * unit


def document(stats: Stats) -> dict[str, object]:
    """Return the document; what this host does not tell is left out."""
    cpu, memory = stats.cpu, stats.memory
    usage = _told(total=cpu.usage_ns, kernel=cpu.system_ns, user=cpu.user_ns)
    throttling = _told(periods=cpu.periods_count, throttledPeriods=cpu.throttled_count, throttledTime=cpu.throttled_ns)
    limit = None if memory.limit_bytes == -1 else memory.limit_bytes
    return {
        "cpu": {"usage": usage, "throttling": throttling},
        "memory": {
            "usage": _told(usage=memory.usage_bytes, max=memory.peak_bytes, limit=limit),
            "kernel": _told(usage=memory.kernel_bytes),
            "swap": _told(usage=memory.swap_bytes),
            "raw": _told(anon=memory.anon_bytes, file=memory.file_bytes, oom_kill=memory.oom_kills_count),
        },
        "pids": _told(current=stats.pids.current_count, limit=_positive(stats.pids.limit_count)),
        "blkio": {"ioServiceBytesRecursive": [line for device in stats.io or () for line in _device(device)]},
        "hugetlb": {
            page.size: _told(usage=page.usage_bytes, max=_positive(page.limit_bytes), failcnt=page.failures_count)
            for page in stats.hugetlb or ()
        },
        "pressure": {name: as_dict(pressure) for name, pressure in stats.pressure.items()},
    }


def _told(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _positive(limit: int | None) -> int | None:
    return None if limit == -1 else limit


def _device(device: DeviceStats) -> list[dict[str, object]]:
    place = {"major": device.major, "minor": device.minor}
    values = {"Read": device.read_bytes, "Write": device.write_bytes}
    return [{**place, "op": name, "value": value} for name, value in values.items() if value is not None]

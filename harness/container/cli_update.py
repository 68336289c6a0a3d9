"""The limits of `update`: from a file, from stdin, or from the options of the command line."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

from harness.container import config
from harness.container.errors import ContainerError
from harness.container.resources import Resources

_MAX_BYTES = 1 << 20
# Option, group and field of linux.resources.
_FIELDS = (
    ("memory", "memory", "limit"), ("memory_reservation", "memory", "reservation"), ("memory_swap", "memory", "swap"),
    ("kernel_memory_tcp", "memory", "kernelTCP"), ("cpu_period", "cpu", "period"), ("cpu_quota", "cpu", "quota"),
    ("cpu_burst", "cpu", "burst"), ("cpu_share", "cpu", "shares"), ("cpu_idle", "cpu", "idle"),
    ("cpu_rt_period", "cpu", "realtimePeriod"), ("cpu_rt_runtime", "cpu", "realtimeRuntime"),
    ("pids_limit", "pids", "limit"), ("blkio_weight", "blockIO", "weight"),
)  # fmt: skip
_SIZES = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def resources(options: SimpleNamespace) -> Resources:
    """Return the limits that shall hold. Raises ContainerError, naming the option or the field."""
    if options.resources is not None:
        return config.read_resources(_document(options.resources))
    if options.kernel_memory is not None:
        raise ContainerError("--kernel-memory", 0, "kernels have no such limit any more (Linux 5.16)")
    document: dict[str, dict[str, object]] = {}
    for name, group, field in _FIELDS:
        if (text := getattr(options, name)) is not None:
            document.setdefault(group, {})[field] = _number(f"--{name.replace('_', '-')}", text)
    for name in ("cpus", "mems"):
        if (text := getattr(options, f"cpuset_{name}")) is not None:
            document.setdefault("cpu", {})[name] = text
    if not document:
        raise ContainerError("update", 0, "nothing to change: name a limit, or --resources FILE")
    return config.read_resources(document)


def _document(path: str) -> object:
    try:
        if path == "-":
            text = sys.stdin.read(_MAX_BYTES)
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read(_MAX_BYTES)
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise ContainerError("--resources", 0, f"{path}: {error}") from error


def _number(option: str, text: str) -> int:
    """Return a number; sizes may end with b, k, m or g."""
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in _SIZES else (text, "b")
    try:
        return int(digits) * _SIZES[unit]
    except ValueError:
        raise ContainerError(option, 0, f"{text}: not a number") from None

"""Which functions of the host's kernel some processes run during a piece of work: the function tracer, attached.

In an instance of tracefs of our own, so that nobody else's tracing is touched; it is removed whatever happens. While it
is there, every kernel function of the host costs a little more.
Source: Documentation/trace/ftrace.rst (instances, set_ftrace_pid, function-fork).
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.probes._surface import Missing

PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
PREFIX = "harness-"
_BUFFER_KIB = 16384
"""For each CPU; the fixed work makes some 200,000 events of about 24 bytes."""
_EVENT = re.compile(r"\[\d+\] (\S+) +[\d.]+: ([\w.]+) <-")
_INTERRUPT = frozenset("hHszZ")
"""In the third place of an event's flags: in an interrupt, which is not the process's own doing."""
_OVERRUN = re.compile(r"^overrun: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Traced:
    """The functions that were run, of how many events; `lost` events found no room in the buffer."""

    functions: frozenset[str]
    events: int
    lost: int


def place(places: Sequence[Path] = PLACES) -> Path | Missing:
    """Return where tracefs is, or why functions cannot be traced here."""
    for path in places:
        try:
            tracers = (path / "available_tracers").read_text().split()
        except FileNotFoundError:
            continue
        except OSError as error:
            return Missing("denied", f"{path}: {error.strerror}")
        if "function" not in tracers:
            return Missing("unsupported", "this kernel has no function tracer (CONFIG_FUNCTION_TRACER)")
        return path
    return Missing("absent", "tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)")


def parse(lines: Sequence[str]) -> tuple[frozenset[str], int]:
    """Return the functions of a trace's lines, and how many events they are; those in interrupts are left out."""
    found = [match for match in map(_EVENT.search, lines) if match and not _INTERRUPT.intersection(match[1][2:3])]
    return frozenset(match[2] for match in found), len(found)


def during(
    root: Path,
    tids: Sequence[int],
    work: Callable[[], None],
    make: Callable[[Path], None] = Path.mkdir,
    remove: Callable[[Path], None] = Path.rmdir,
) -> Traced:
    """Return what threads, and all that they start, run in the kernel while `work` runs.

    `make` and `remove` are for an instance, whose files the kernel makes with it.

    Raises: OSError where the kernel refuses: lockdown(7), or no privilege. What `work` raises goes on up.
    """
    instance = root / "instances" / f"{PREFIX}{secrets.token_hex(4)}"
    make(instance)
    try:
        _write(instance, "tracing_on", "0")
        _write(instance, "buffer_size_kb", str(_BUFFER_KIB))
        _write(instance, "set_ftrace_pid", " ".join(map(str, tids)))
        _write(instance, "options/function-fork", "1")
        _write(instance, "current_tracer", "function")
        _write(instance, "tracing_on", "1")
        work()
        _write(instance, "tracing_on", "0")
        functions, events = parse((instance / "trace").read_text(errors="replace").splitlines())
        stats = "".join(path.read_text() for path in instance.glob("per_cpu/cpu*/stats"))
        return Traced(functions, events, sum(map(int, _OVERRUN.findall(stats))))
    finally:
        with contextlib.suppress(OSError):
            _write(instance, "tracing_on", "0")
            _write(instance, "current_tracer", "nop")
        remove(instance)


def _write(instance: Path, name: str, text: str) -> None:
    (instance / name).write_text(text)

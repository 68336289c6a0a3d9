"""What the host and a guest count while a window runs: CPU time, waiting, periods at the quota, stolen time."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from harness.container.cgroups import Group
from harness.interfaces import Instance
from harness.loading.cpu_time import Meter
from harness.model.metrics import Absent, Measurement, Metric
from harness.studies import _caps, _pair
from harness.studies import _interference as m

_SHARED = "shared kernel: no hypervisor of its own takes time from it"
_UNTOLD = "only KVM tells a guest of time that others had"


@dataclass(frozen=True, slots=True)
class _Reading:
    """Counters at one moment; None where they cannot be had. `stolen` and `ticks` are the guest's own."""

    at_ns: int
    own_ns: int | None
    other_ns: int | None
    waited_ns: int | None
    throttled: int | None
    stolen: int = 0
    ticks: int = 0


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted in one window, as shares of its time; None where it cannot be told."""

    own_cpus: float | None
    other_cpus: float | None
    waited_ratio: float | None
    throttled: int | None
    stolen_ratio: float | None


def _per(later: int | None, earlier: int | None, span: int) -> float | None:
    return None if later is None or earlier is None or span <= 0 else (later - earlier) / span


class Watch:
    """Counts in windows of one kind of work. `resource`: whose waiting is of interest."""

    def __init__(self, victim: Instance, other: Instance, resource: str | None, *, steals: bool) -> None:
        self._victim, self._resource, self._steals = victim, resource, steals
        self._meters = Meter(victim.pids), Meter(other.pids)
        self._groups: tuple[Group | None, Group | None] = _caps.group_of(victim), _caps.group_of(other)
        self.windows: list[Counted] = []

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """Count in this block."""
        first = self._read()
        yield
        last = self._read()
        span_ns = last.at_ns - first.at_ns
        throttled = None if first.throttled is None or last.throttled is None else last.throttled - first.throttled
        self.windows.append(
            Counted(
                _per(last.own_ns, first.own_ns, span_ns),
                _per(last.other_ns, first.other_ns, span_ns),
                _per(last.waited_ns, first.waited_ns, span_ns),
                throttled,
                _per(last.stolen, first.stolen, last.ticks - first.ticks),
            )
        )

    def _read(self) -> _Reading:
        own, other = (meter.read_ns() for meter in self._meters)
        stolen, ticks = _pair.ask(self._victim, "victim", "steal", "1", bound_ms=1000) if self._steals else (0, 0)
        waited_ns = _caps.waited_ns(self._groups[0], self._resource) if self._resource else None
        return _Reading(
            time.monotonic_ns(), own, other, waited_ns, _caps.throttled_count(self._groups[1]), stolen, ticks
        )


# -- what follows of (quiet, beside, quiet) ----------------------------------------------------------------------------


def pressure(metric: Metric, beside: Counted) -> Measurement | Absent:
    """Return the share of the window in which tasks of the disturbed one waited."""
    if beside.waited_ratio is None:
        return Absent(metric, "it is in no cgroup whose pressure this host counts")
    return Measurement(metric, beside.waited_ratio)


def used(beside: Counted, cpus: float) -> Measurement | Absent:
    """Return how much of its CPU time the antagonist took, of `cpus`."""
    if beside.other_cpus is None:
        return Absent(m.USED, "its CPU time cannot be told here")
    labels = {"allowed_cpus": f"{cpus:g}"}
    if beside.throttled is not None:
        labels["periods_at_its_quota"] = str(beside.throttled)
    return Measurement(m.USED, beside.other_cpus / cpus, labels)


def shrunk(before: Counted, beside: Counted, after: Counted) -> Measurement | Absent:
    """Return how much CPU time the disturbed one got, of what it gets in quiet windows."""
    if before.own_cpus is None or beside.own_cpus is None or after.own_cpus is None:
        return Absent(m.SHRUNK, "its CPU time cannot be told here")
    quiet = (before.own_cpus + after.own_cpus) / 2
    if not math.isfinite(quiet) or quiet <= 0:
        return Absent(m.SHRUNK, "it took no CPU time in a quiet window")
    return Measurement(m.SHRUNK, beside.own_cpus / quiet)


def steal(victim: Instance, accelerator: str | None, beside: Counted) -> Measurement | Absent:
    """Return what a guest is told that others had of its CPU time."""
    if victim.boundary != "vm":
        return Absent(m.STEAL, _SHARED)
    if accelerator != "kvm" or beside.stolen_ratio is None:
        return Absent(m.STEAL, _UNTOLD)
    return Measurement(m.STEAL, beside.stolen_ratio)

"""What the study `interference` measures, and by which means each kind of work is disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from harness.model.metrics import Better, Metric, Unit

Kind = Literal["cpu", "memory", "fork", "disk", "network"]
KINDS: tuple[Kind, ...] = ("cpu", "memory", "fork", "disk", "network")
SCRATCH = "/scratch"
"""Where the disk of an instance is mounted, if it has one."""
SCRATCH_BYTES = 256 << 20
PORT = 7
DO = {
    "cpu": "integer loops",
    "memory": "random reads of 64 MiB",
    "fork": "forks and waits",
    "disk": "writes of 4 KiB, direct, each followed by fdatasync,",
    "network": "round trips of one byte to the host, over the run's bridge,",
}
BY = {
    "cpu": "two spinners a CPU",
    "memory": "one that writes 64 MiB again and again",
    "fork": "up to 3000 forks",
    "disk": "one that writes 1 MiB at a time, direct, to 64 MiB of its own on the same disk of the host",
    "network": "one that sends all it can to the host, over the same bridge",
}
RESOURCE = {"cpu": "cpu", "memory": "memory", "disk": "io"}
"""For what tasks wait that are disturbed, as the kernel counts it (pressure stall information)."""


def _kept(kind: str) -> Metric:
    doc = f"{DO[kind]} per second beside {BY[kind]}, of those in quiet windows before and after"
    return Metric(f"interference.{kind}.kept", Unit.RATIO, Better.HIGHER, doc)


def _same(kind: str) -> Metric:
    doc = f"A/A control of interference.{kind}.kept: the later quiet window against the earlier one"
    return Metric(f"interference.{kind}.aa", Unit.RATIO, Better.NEITHER, doc)


def _waited(resource: str) -> Metric:
    kind = next(kind for kind, of in RESOURCE.items() if of == resource)
    doc = (
        f"share of the window beside the {kind} antagonist in which tasks of its cgroup waited (PSI, {resource}, some)"
    )
    return Metric(f"interference.pressure.{resource}", Unit.RATIO, Better.LOWER, doc)


KEPT: Mapping[str, Metric] = {kind: _kept(kind) for kind in KINDS}
SAME: Mapping[str, Metric] = {kind: _same(kind) for kind in KINDS}
PRESSURE = {resource: _waited(resource) for resource in RESOURCE.values()}
ROUND = Metric("interference.network.p99", Unit.NS, Better.LOWER, "such a round trip beside the antagonist, p99")
ROUND_QUIET = Metric("interference.network.p99.quiet", Unit.NS, Better.LOWER, "the same with nothing beside it")
LATE = Metric("interference.wakeup.p99", Unit.NS, Better.LOWER, "how late a sleep of 1 ms ends beside spinners, p99")
LATE_MEDIAN = Metric("interference.wakeup.p50", Unit.NS, Better.LOWER, "the same, p50")
LATE_QUIET = Metric("interference.wakeup.quiet", Unit.NS, Better.LOWER, "p99 with nothing beside it, before")
LATE_SAME = Metric("interference.wakeup.aa", Unit.RATIO, Better.NEITHER,
                   "A/A control of the two: p99 in a quiet window after, of that before")  # fmt: skip
FAIR = Metric("interference.fairness", Unit.RATIO, Better.HIGHER,
              "Jain's index of the work of both when both take all they can: 1 equal, 0.5 one has all")  # fmt: skip
FAIR_MANY = Metric("interference.fairness.many", Unit.RATIO, Better.HIGHER,
                   "Jain's index of several equal instances that all spin (labels: how many)")  # fmt: skip
USED = Metric("interference.cpu.used", Unit.RATIO, Better.NEITHER,
              "CPU time of the host that the spinners took, of what their limit allows in that time")  # fmt: skip
SHRUNK = Metric("interference.cpu.shrunk", Unit.RATIO, Better.HIGHER,
                "CPU time of the host that the disturbed one got beside spinners, of that in quiet")  # fmt: skip
STEAL = Metric("interference.steal", Unit.RATIO, Better.LOWER,
               "share of its CPU time beside spinners that a guest is told others had")  # fmt: skip
METRICS = (
    KEPT["cpu"],
    *(KEPT[kind] for kind in KINDS[1:]),
    *SAME.values(),
    LATE,
    LATE_MEDIAN,
    LATE_QUIET,
    LATE_SAME,
    ROUND,
    ROUND_QUIET,
    FAIR,
    FAIR_MANY,
    USED,
    SHRUNK,
    STEAL,
    *PRESSURE.values(),
)

"""CPU time that the host spent on an instance until it was ready: VMM, vhost, helpers and kernel work with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.interfaces import Emit, Instance
from harness.loading.cpu_time import Meter
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit

START = Metric(
    "cpu.start", Unit.NS, Better.LOWER,
    "CPU time of the host from the making of the instance's cgroup until it is ready and first looked at: its "
    "processes, or the VMM with its helpers. Who starts it (this harness, a daemon) is not counted",
)  # fmt: skip


class CpuProbe:
    name = "cpu"
    doc = "the host's CPU time for a start; what a unit of work costs, driven workloads say themselves"
    metrics = (START,)

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        meter = Meter(instance.pids, from_start=True)
        used_ns = meter.read_ns()
        if used_ns is None:
            emit(Absent(START, "no cgroup and no process of this instance is known to count CPU time"))
        else:
            emit(Measurement(START, used_ns, {"counted": meter.counted}))
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was read while it ran."""


PLUGIN = CpuProbe()

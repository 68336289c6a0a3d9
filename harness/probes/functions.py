"""How much of the host's kernel a fixed piece of work goes through: a horizontal attack profile, by ftrace.

Counted are the functions that the boundary's processes ran, not those that they could; so it is a lower bound, and of
the fixed work alone. It is not part of `harness probe`: while it traces, the whole host is slower.
Source: J. Bottomley, "Measuring the Horizontal Attack Profile of Nabla Containers" (2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.interfaces import Emit, Instance
from harness.model.metrics import Absent, Better, Measurement, Metric, Unit
from harness.probes import _filters, _ftrace
from harness.probes._surface import Finding, Missing, Outcome
from harness.probes.boundary import WorkFailed, boundary_pids, fixed_work
from harness.probes.surface import HOST_KERNEL

FUNCTIONS = Metric(
    "isolation.boundary.functions", Unit.COUNT, Better.LOWER,
    "different functions of the host's kernel that its processes run during the fixed work, without interrupts",
)  # fmt: skip


def traced(instance: Instance) -> Outcome:
    """Return the functions run in one pass of the fixed work, and how far a second pass agrees."""
    root = _ftrace.place()
    if isinstance(root, Missing):
        return root
    passes = []
    for _ in range(2):
        try:
            passes.append(_ftrace.during(root, _filters.threads(boundary_pids(instance)), lambda: fixed_work(instance)))
        except WorkFailed as error:
            return Missing("error", error.message)
        except OSError as error:
            return Missing("denied", f"the kernel lets nobody trace its functions: {error.strerror}")
    first, second = passes
    lost = first.lost + second.lost
    return Finding(
        len(first.functions),
        {
            "again": str(len(second.functions)),
            "both": str(len(first.functions & second.functions)),
            "events": str(first.events),
            **({"at_least": "yes", "lost": str(lost)} if lost else {}),
        },
    )


class FunctionsProbe:
    name = "functions"
    doc = "functions of the host's kernel that the process between workload and host runs; slows the host meanwhile"
    metrics = (FUNCTIONS,)

    @contextmanager
    def watch(self, instance: Instance, emit: Emit) -> Iterator[None]:
        outcome = traced(instance)
        if isinstance(outcome, Missing):
            emit(Absent(FUNCTIONS, outcome.text()))
        else:
            emit(Measurement(FUNCTIONS, outcome.value, {"acts_on": HOST_KERNEL, **outcome.labels}))
        yield

    def conclude(self, instance: Instance, emit: Emit) -> None:
        """Everything was taken while it ran."""


PLUGIN = FunctionsProbe()

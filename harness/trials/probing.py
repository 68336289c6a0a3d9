"""One look at one runtime: start an instance that only waits, have probes watch it, end it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import TrialError
from harness.interfaces import ArmSpec, Backend, Json, Probe, RunContext
from harness.model.metrics import Absent, Measurement
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec

if TYPE_CHECKING:
    from pydantic import BaseModel

READY_NS = 120_000_000_000
STOP_NS = 30_000_000_000
WAITING = WorkloadSpec(argv=("harness:probe", "wait"), ready=Ready("line", "waiting"), timeout_ns=READY_NS)
"""It is the agent itself, so that any image will do, an empty one too."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of one runtime, by metric. `facts` say what it is; `took_ns` from preparing to its end.

    `backend` is empty for a sandbox that somebody else started.
    """

    backend: str
    boundary: str
    accelerator: str | None
    found: Mapping[str, Measurement | Absent]
    facts: Mapping[str, Json]
    took_ns: int


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend with its options, under the name that people gave it."""

    name: str
    backend: Backend
    options: BaseModel


def look_at(subject: Subject, tree: RootTree, probes: Sequence[Probe], context: RunContext) -> Look:
    """Return what the probes find of one fresh instance. Raises: HarnessError where it cannot be started or ended."""
    started_ns = time.monotonic_ns()
    found: dict[str, Measurement | Absent] = {}

    def emit(item: Measurement | Absent) -> None:
        found[item.metric.name] = item

    spec = ArmSpec(subject.name, tree, WAITING, Limits())
    arm = subject.backend.prepare(spec, subject.options, context)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(arm.close)
        instance = arm.launch(f"look-{subject.name}")
        try:
            instance.wait("ready", time.monotonic_ns() + READY_NS)
            for probe in probes:
                with probe.watch(instance, emit):
                    pass
        except BaseException:
            with contextlib.suppress(TrialError, ValueError):
                instance.stop(time.monotonic_ns())
            raise
        boundary = instance.boundary
        instance.stop(time.monotonic_ns() + STOP_NS)
        for probe in probes:
            probe.conclude(instance, emit)
    return Look(subject.backend.name, boundary, arm.accelerator, found, arm.facts, time.monotonic_ns() - started_ns)

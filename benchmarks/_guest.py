"""A prepared VM arm for benchmarks: the shipped busybox image, `true` as workload, one guest at a time."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.backends._guest import Guest
from harness.backends.libvirt import LibvirtArm, LibvirtBackend, Options
from harness.host.paths import cache_dir, data_dir
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, RunContext
from harness.model.milestones import READY, REQUESTED
from harness.model.spec import Limits, WorkloadSpec
from harness.trials import ownership

TIMEOUT_NS = 60 * 10**9


def deadline_ns() -> int:
    return time.monotonic_ns() + TIMEOUT_NS


def reached_ns(guest: Guest, milestone: str) -> int:
    """Return request to `milestone`, ns."""
    reached = guest.wait(milestone, deadline_ns())
    return reached.at_ns - next(mark.at_ns for mark in guest.marks if mark.milestone == REQUESTED)


def ready_ns(guest: Guest) -> int:
    """Return request to ready, ns."""
    return reached_ns(guest, READY)


@contextlib.contextmanager
def prepared(machine: str, accel: str = "auto") -> Iterator[tuple[LibvirtArm, RunContext]]:
    """Yield an arm and its context; nothing is left afterwards."""
    with prepared_all({"vm": {"machine": machine, "accel": accel}}) as (arms, context):
        yield arms["vm"], context


@contextlib.contextmanager
def prepared_all(
    runtimes: Mapping[str, Mapping[str, object]],
    limits: Limits | None = None,
    workloads: Mapping[str, WorkloadSpec] | None = None,
) -> Iterator[tuple[dict[str, LibvirtArm], RunContext]]:
    """Yield an arm for each set of options of `backend: libvirt`, and their context; nothing is left afterwards.

    What runs in them is `true`, unless `workloads` says otherwise.
    """
    token = secrets.token_hex(4)
    context = RunContext("benchmark", token, ownership.claim(token, "benchmark"), cache_dir())
    store = Store(data_dir() / "images")
    tree = resolve_image(ImageRef("name", "busybox"), Path(), store)
    workload = WorkloadSpec(("/bin/true",), {"PATH": "/bin"})
    arms: dict[str, LibvirtArm] = {}
    try:
        for name, options in runtimes.items():
            spec = ArmSpec(name, tree, (workloads or {}).get(name, workload), limits or Limits())
            arm = LibvirtBackend().prepare(spec, Options.model_validate(options), context)
            assert isinstance(arm, LibvirtArm)
            arms[name] = arm
        yield arms, context
        for arm in arms.values():
            arm.close()
    finally:
        shutil.rmtree(context.scratch)

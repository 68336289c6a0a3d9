"""A prepared VM arm for benchmarks: the shipped busybox image, `true` as workload, one guest at a time."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
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


def ready_ns(guest: Guest) -> int:
    """Return request to ready, ns."""
    ready = guest.wait(READY, deadline_ns())
    return ready.at_ns - next(mark.at_ns for mark in guest.marks if mark.milestone == REQUESTED)


@contextlib.contextmanager
def prepared(machine: str, accel: str = "auto") -> Iterator[tuple[LibvirtArm, RunContext]]:
    """Yield an arm and its context; nothing is left afterwards."""
    token = secrets.token_hex(4)
    context = RunContext("benchmark", token, ownership.claim(token, "benchmark"), cache_dir())
    store = Store(data_dir() / "images")
    tree = resolve_image(ImageRef("name", "busybox"), Path(), store)
    spec = ArmSpec("vm", tree, WorkloadSpec(("/bin/true",), {"PATH": "/bin"}), Limits())
    options = Options.model_validate({"machine": machine, "accel": accel})
    try:
        arm = LibvirtBackend().prepare(spec, options, context)
        assert isinstance(arm, LibvirtArm)
        yield arm, context
        arm.close()
    finally:
        shutil.rmtree(context.scratch)

"""What the tests of the container runtime share: an image of one's own, a run's context, ways to start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import plugins
from harness.backends import _local, builtin
from harness.container import launcher, plan
from harness.container.frozen import replace
from harness.images.tree import root_digest
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec

SECOND_NS = 10**9
MIB = 1 << 20
LIMITS = Limits(cpus=0.5, memory_bytes=48 * MIB, pids=24)
BOTH = pytest.mark.parametrize("backend", ["builtin", "process"])


def deadline(seconds: float = 20) -> int:
    return time.monotonic_ns() + round(seconds * SECOND_NS)


@contextmanager
def running(
    backend: str, tree: Path, context: RunContext, workload: WorkloadSpec, options: dict[str, object] | None = None
) -> Iterator[Instance]:
    plugin = plugins.load("backends", backend)
    root = RootTree(tree, root_digest(tree), 0)
    spec = ArmSpec("arm", root, workload, LIMITS)
    arm = plugin.prepare(spec, plugin.options.model_validate(options or {}), context)
    try:
        instance = arm.launch("t0")
        try:
            yield instance
        finally:
            instance.stop(deadline())
    finally:
        arm.close()


def shell(script: str, **changes: object) -> WorkloadSpec:
    return WorkloadSpec(("/bin/sh", "-c", script), {"PATH": "/bin"}, **changes)  # type: ignore[arg-type]


SLEEPER = shell("echo up; exec sleep 600", ready=Ready("line", text="up"))


def output_of(backend: str, tree: Path, context: RunContext, script: str, **options: object) -> list[str]:
    with running(backend, tree, context, shell(script), options) as instance:
        instance.wait("exited", deadline())
    stdout, stderr = instance.output()
    return (stdout + stderr).decode().splitlines()


def host_namespaces() -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}


def run_plan(tree: Path, context: RunContext, script: str, **changes: object) -> list[str]:
    """Run a container with changes to its specification, through what the backend uses."""
    arm = ArmSpec("arm", RootTree(tree, "", 0), shell(script), LIMITS)
    kit = _local.Kit(arm, "container", context)
    spec = builtin.container_spec(arm, builtin.Options(), str(context.scratch))
    steps = plan.container_steps(replace(spec, **changes), kit.launch())  # type: ignore[arg-type]
    memfd = launcher.plan_memfd(steps)
    try:
        instance = _local.start(kit, memfd, "t0", time.monotonic_ns(), lambda: None)
        try:
            instance.wait("exited", deadline())
        finally:
            instance.stop(deadline())
    finally:
        os.close(memfd)
        kit.close()
    stdout, stderr = instance.output()
    return (stdout + stderr).decode().splitlines()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie that waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[str]:
    return {*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}

"""Containers of a run on every storage driver that works here: the same tree, attested; writes apart; nothing left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.host.paths import data_dir
from harness.images.storage import kinds
from harness.images.tree import root_digest, tree_size_bytes
from harness.interfaces import Arm, ArmSpec, Instance, RunContext
from harness.model.milestones import READY
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec

pytestmark = pytest.mark.needs("root", "overlayfs")

LIMITS = Limits(cpus=1, memory_bytes=192 << 20, pids=64)
WORKLOAD = WorkloadSpec(
    ("/bin/sh", "-c", "echo mine > /note; mv /etc/passwd /etc/moved; echo up; sleep 60"),
    {"PATH": "/bin"},
    ready=Ready("line", text="up"),
)
STORAGES: list[Any] = [
    *kinds.KINDS,
    {"driver": "overlay", "depth": 20},
    {"driver": "overlay", "depth": 300},
    {"driver": "overlay", "depth": 20, "writable": "disk"},
    {"driver": "overlay", "layers": "image"},
    {"driver": "btrfs", "layers": "image", "depth": 5},
    {"driver": "btrfs", "depth": 5},
    {"driver": "erofs", "depth": 5},
]


def deadline() -> int:
    return time.monotonic_ns() + 30 * 10**9


@pytest.fixture
def arms(busybox: Path, context: RunContext) -> Any:
    tree = RootTree(busybox, root_digest(busybox), tree_size_bytes(busybox))
    backend = plugins.load("backends", "builtin")

    @contextmanager
    def prepared(storage: Any) -> Iterator[Arm]:
        options = backend.options.model_validate({"storage": storage})
        for need in backend.needs(options):
            if not need.available:
                pytest.skip(f"{need.name}: {need.reason}")
        arm = backend.prepare(ArmSpec("tested", tree, WORKLOAD, LIMITS), options, context)
        try:
            yield arm
        finally:
            arm.close()
        assert backend.reap(context.token, dry_run=True) == []

    return prepared


@contextmanager
def running(arm: Arm, trial_id: str) -> Iterator[Instance]:
    instance = arm.launch(trial_id)
    try:
        instance.wait(READY, deadline())
        yield instance
    finally:
        instance.stop(deadline())


def read(instance: Instance, path: str) -> bytes:
    return instance.exec(["/bin/cat", path], 10**10).stdout


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_two_containers_on_one_stack(storage: Any, arms: Any, busybox: Path) -> None:
    with arms(storage) as arm:
        with running(arm, "t1") as first, running(arm, "t2") as second:
            assert first.attest(deadline()).root_digest == second.attest(deadline()).root_digest == root_digest(busybox)
            assert read(first, "/note") == b"mine\n"
            assert read(first, "/etc/passwd") == b""
            first.exec(["/bin/sh", "-c", "echo changed > /note"], 10**10)
            assert read(second, "/note") == b"mine\n"
            mounts = Path("/proc/self/mountinfo").read_text()
            assert "tested" not in mounts
            assert str(data_dir() / "storage") not in mounts
        with running(arm, "t1") as again:  # a new one under the name of one that is gone
            assert read(again, "/note") == b"mine\n"


def test_processes_that_serve_a_root_are_the_instances(arms: Any) -> None:
    with arms("fuse-overlayfs") as arm, running(arm, "t1") as instance:
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in instance.pids()}
        assert "fuse-overlayfs" in names


def test_facts_name_driver_and_depth(arms: Any) -> None:
    with arms({"driver": "erofs", "depth": 3}) as arm:
        assert arm.facts["storage"]["driver"] == "erofs"
        assert arm.facts["storage"]["depth"] == 3
        assert arm.facts["storage"]["writable"] == "disk"

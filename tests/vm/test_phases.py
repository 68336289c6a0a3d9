"""A guest's start taken apart, a guest whose instructions are counted, and known things found again in a guest."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import plugins
from harness.analysis import phases
from harness.host.paths import cache_dir
from harness.images.tree import root_digest
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.milestones import READY, REQUESTED
from harness.model.spec import Limits, RootTree
from harness.trials import ownership, selftest

pytestmark = pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs")
MIB = 1 << 20


@pytest.fixture
def tree(tmp_path: Path) -> RootTree:
    """An image with nothing in it: what runs is a part of the agent."""
    path = tmp_path / "tree"
    for name in ("dev", "proc", "sys", "tmp"):
        (path / name).mkdir(parents=True)
    return RootTree(path, root_digest(path), 0)


@contextmanager
def booted(tree: RootTree, options: dict[str, object]) -> Iterator[Instance]:
    token = secrets.token_hex(4)
    context = RunContext("test", token, ownership.claim(token, "test"), cache_dir())
    backend = plugins.load("backends", "libvirt")
    try:
        spec = ArmSpec("vm", tree, selftest.WORKLOAD, Limits(memory_bytes=192 * MIB))
        arm = backend.prepare(spec, backend.options.model_validate({"accel": "tcg", **options}), context)
        try:
            guest = arm.launch("t0")
            try:
                guest.wait(READY, time.monotonic_ns() + 120 * 10**9)
                yield guest
            finally:
                guest.stop(time.monotonic_ns() + 60 * 10**9)
        finally:
            arm.close()
    finally:
        ownership.reap(token, [backend], dry_run=False)


def test_a_counted_guest_counts_up_and_runs_the_same_image_without_a_disk(tree: RootTree) -> None:
    with booted(tree, {"icount": True}) as guest:
        counts = {mark.milestone: mark.instructions for mark in guest.marks if mark.instructions}
        assert guest.attest(time.monotonic_ns() + 60 * 10**9).root_digest == tree.digest
    assert list(counts)[:4] == ["init", "drivers", "root", "exec"]
    assert list(counts.values()) == sorted(counts.values())  # type: ignore[type-var]
    assert counts[READY] < 10 * counts["init"]  # type: ignore[operator]  # it never waited for the host


def test_a_start_has_every_phase_and_what_is_known_is_found(tree: RootTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "DELAYS", {100_000_000: 6})
    with booted(tree, {"boot": "bzimage", "cmdline": "loglevel=7"}) as guest:
        asked_ns = next(mark.at_ns for mark in guest.marks if mark.milestone == REQUESTED)
        marks = {mark.milestone: mark.at_ns - asked_ns for mark in guest.marks}
        times = list(selftest.times(guest))
        accounts = {check.what: check for check in selftest.accounts(guest, plugins.load("probes", "memory"))}
    names = [phase.name for phase in phases.of_marks(marks)]
    assert names == [
        "VMM", "machine", "firmware", "load kernel", "decompression", "kernel", "initramfs", "drivers", "root mount",
        "init", "exec to ready",
    ]  # fmt: skip
    assert accounts["memory.inside.anon"].holds, accounts
    assert times[0].found is not None
    assert times[0].found > 90_000_000

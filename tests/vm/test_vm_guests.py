"""Guests of other profiles than the default, many at once, and guests that end as they should not."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.backends import libvirt
from harness.backends._domain import Disk
from harness.errors import AgentError, BackendError, CapabilityError, ImageError
from harness.host.paths import cache_dir, data_dir
from harness.images import stock
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, RunContext
from harness.model.milestones import FIRMWARE, INIT, OOM, READY
from harness.model.spec import Limits, RootTree, WorkloadSpec
from harness.trials import ownership

pytestmark = pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs")
SECOND_NS = 10**9
TRUE = WorkloadSpec(("/bin/true",), {"PATH": "/bin"})
MANY = 8
TEST_MANY = "HARNESS_MANY_GUESTS"
TEST_STOCK = "HARNESS_STOCK_SYSTEM"


@pytest.fixture(scope="module")
def tree() -> RootTree:
    store = Store(data_dir() / "images")
    try:
        return resolve_image(ImageRef("name", "busybox"), Path(), store)
    except ImageError:
        bootstrap_busybox(store, cache_dir())
        return resolve_image(ImageRef("name", "busybox"), Path(), store)


@pytest.fixture
def context() -> Iterator[RunContext]:
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "guests")
    yield RunContext("guests", token, scratch, cache_dir())
    assert libvirt.PLUGIN.reap(token, dry_run=True) == [], "a guest leaked"
    ownership.reap(token, [libvirt.PLUGIN], dry_run=False)


def prepare(
    tree: RootTree, context: RunContext, workload: WorkloadSpec = TRUE, memory_mib: int = 128, **options: Any
) -> libvirt.LibvirtArm:
    chosen = libvirt.Options.model_validate({"accel": "tcg", **options})
    spec = ArmSpec("vm", tree, workload, Limits(memory_bytes=memory_mib << 20))
    arm = libvirt.PLUGIN.prepare(spec, chosen, context)
    assert isinstance(arm, libvirt.LibvirtArm)
    return arm


def soon(seconds: int = 60) -> int:
    return time.monotonic_ns() + seconds * SECOND_NS


def test_a_machine_of_other_parts_runs_the_same_tree(tree: RootTree, context: RunContext) -> None:
    """Every lever that Debian's cloud kernel has drivers for, away from its default, in one boot."""
    arm = prepare(
        tree, context, machine="pc", firmware="qboot", boot="bzimage", console="serial", initramfs="zstd",
        disk_bus="scsi", disk_cache="none", disk_io="native", cpu="max", vcpus=2, tcg_cache="64MiB",
        extra_modules=["squashfs"], storage="qcow2", memory="256MiB",
    )  # fmt: skip
    guest = arm.launch("t0")
    try:
        guest.wait(READY, soon())
        seen = guest.attest(soon())
    finally:
        guest.stop(soon(5))
    arm.close()
    assert seen.root_digest == tree.digest
    assert seen.cpus == 2
    assert not any(mark.milestone == FIRMWARE for mark in guest.marks), "qboot says nothing"
    assert arm.facts["levers"] == {
        "boot": "bzimage", "console": "serial", "cpu": "max", "disk_bus": "scsi",
        "disk_cache": "none", "disk_io": "native", "extra_modules": ["squashfs"], "firmware": "qboot",
        "initramfs": "zstd", "machine": "pc", "memory": 256 << 20, "tcg_cache": 64 << 20, "vcpus": 2,
    }  # fmt: skip
    assert set(arm.facts["changes"]) == {"machine", "cpu", "vcpus", "memory", "disk_cache"}  # type: ignore[arg-type]


def test_a_guest_without_memory_for_its_workload_is_told_so(tree: RootTree, context: RunContext) -> None:
    grows = replace(TRUE, argv=("/bin/tail", "/dev/zero"))
    arm = prepare(tree, context, grows, memory_mib=96, machine="microvm")
    guest = arm.launch("t0")
    with pytest.raises(
        AgentError, match=r"guest: out of memory \(96.0 MiB\): its kernel killed \d+ of its processes"
    ) as caught:
        guest.wait(READY, soon())
    guest.stop(soon(5))
    arm.close()
    assert "limits.memory" in (caught.value.hint or "")
    assert caught.value.ending == "guest-oom"
    assert any(mark.milestone == OOM for mark in guest.marks)


def test_a_vmm_that_is_killed_is_told_from_a_guest_that_ends(tree: RootTree, context: RunContext) -> None:
    arm = prepare(tree, context)
    guest = arm.launch("t0")
    os.kill(guest.pids()[0], signal.SIGKILL)
    with pytest.raises(AgentError, match="VMM: QEMU was killed by SIGKILL from outside") as caught:
        guest.wait(INIT, soon())
    assert caught.value.ending == "vmm-killed"
    guest.stop(soon(5))
    arm.close()


def test_what_cannot_start_is_refused_at_once_with_the_reason(tree: RootTree, context: RunContext) -> None:
    with pytest.raises(CapabilityError, match=r"limits\.memory: 32\.0 MiB: too little to boot: kernel"):
        prepare(tree, context, memory_mib=32)
    arm = prepare(tree, context)
    (context.scratch / "disk").write_bytes(b"QFI\xfb" + bytes(4096))
    broken = Disk(context.scratch / "disk", "qcow2")
    root = replace(arm._parts.root, disks=(broken,))
    arm._parts = replace(arm._parts, root=root)
    start_ns = time.monotonic_ns()
    with pytest.raises(BackendError, match=r"VMM: QEMU did not start: .*qcow2") as caught:
        arm.launch("t0")
    assert caught.value.ending == "not-started"
    assert time.monotonic_ns() - start_ns < 10 * SECOND_NS, "it is known at once"
    arm.close()


@pytest.mark.skipif(TEST_MANY not in os.environ, reason=f"emulated it takes half a minute: {TEST_MANY}=1 runs it")
def test_eight_guests_start_together_and_all_of_them_go(tree: RootTree, context: RunContext) -> None:
    arm = prepare(tree, context)
    with ThreadPoolExecutor(MANY) as pool:
        guests = [*pool.map(arm.launch, [f"t{number}" for number in range(MANY)])]
        try:
            seen = [*pool.map(lambda guest: (guest.wait(READY, soon(300)), guest.attest(soon(300)))[1], guests)]
            assert len({pid for guest in guests for pid in guest.pids()}) == MANY
        finally:
            [*pool.map(lambda guest: guest.stop(soon(60)), guests)]
    arm.close()
    assert {attestation.root_digest for attestation in seen} == {tree.digest}
    assert len({attestation.boot_id for attestation in seen}) == MANY, "eight kernels"


@pytest.mark.skipif(TEST_STOCK not in os.environ, reason=f"emulated it takes a minute and more: {TEST_STOCK}=1 runs it")
def test_a_distributions_own_system_runs_the_same_tree(tree: RootTree, context: RunContext) -> None:
    arm = prepare(tree, context, memory_mib=512, boot="disk")
    guest = arm.launch("t0")
    try:
        guest.wait(READY, soon(400))
        seen = guest.attest(soon())
    finally:
        guest.stop(soon(60))
    arm.close()
    system = stock.find(cache_dir())
    assert system is not None
    assert seen.root_digest == tree.digest
    assert seen.kernel == system.release

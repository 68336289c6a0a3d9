"""A guest of a VMM that is started by its own command line, with QEMU in that place: emulation needs no KVM.

Marks come by the serial port out of the VMM's stdout and the guest ends by a reset, as under Firecracker. QEMU has no
vsock without a device of the host's: its virtio-serial ports are connected to the same sockets instead.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends import _metering, _micro, _vm_boot, _vm_mounts, _vm_storage
from harness.backends._domain import CHANNELS, GuestSpec
from harness.backends._micro_guest import VSOCK, VSOCK_PORT, Vmm
from harness.errors import TrialError
from harness.host.paths import cache_dir, data_dir
from harness.host.process import find_program
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, RunContext
from harness.model.milestones import DELETED, EXEC, INIT, KERNEL, READY, REQUESTED, VMM_EXEC
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
from harness.trials import ownership

pytestmark = pytest.mark.needs("root", "qemu", "kernel", "erofs")
SERVER = WorkloadSpec(
    ("httpd", "-f", "-p", "8080", "-h", "/etc"), {"PATH": "/bin"}, ready=Ready("http", port=8080, path="/passwd")
)
LIMITS = Limits(1, 128 << 20, 64)


def argv(guest: GuestSpec) -> list[str]:
    ports = [
        word
        for number, name in enumerate(CHANNELS)
        for word in (
            "-chardev", f"socket,id={name},path={guest.sockets / f'{VSOCK}_{VSOCK_PORT + number}'}",
            "-device", f"virtserialport,chardev={name},name={name}",
        )
    ]  # fmt: skip
    return [
        guest.emulator, "-machine", "q35,accel=tcg", "-m", f"{guest.memory_bytes >> 20}M", "-nodefaults",
        "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", guest.cmdline,
        "-drive", f"file={guest.disks[0].path},format=raw,if=virtio,readonly=on",
        "-device", "virtio-serial-pci", *ports,
    ]  # fmt: skip


QEMU = Vmm(
    "stand-in", "qemu-system-x86_64", "-", bus="q35", marks_port=0x3F8,
    words=("reboot=k", "harness_end=reset", "8250.nr_uarts=0", "no_timer_check"), argv=argv,
)  # fmt: skip


@pytest.fixture(scope="module")
def tree() -> RootTree:
    store = Store(data_dir() / "images")
    bootstrap_busybox(store, cache_dir())
    return resolve_image(ImageRef("name", "busybox"), Path(), store)


@pytest.fixture
def arm(tree: RootTree) -> Iterator[_micro.MicroArm]:
    token = secrets.token_hex(4)
    context = RunContext("micro", token, ownership.claim(token, "micro"), cache_dir())
    spec, like = ArmSpec("vm", tree, SERVER, LIMITS), _micro.Options().as_vm(QEMU)
    mounts = _vm_mounts.VmMounts(spec, "auto", like.machine, lambda _kind: None)
    boot = _vm_boot.prepare(like, context.cache, "none", mounts, context.say)
    root = _vm_storage.prepare(spec, like, data_dir() / "images" / "disks")
    initrd = context.scratch / "initrd"
    initrd.write_bytes(boot.pack(_vm_boot.agent_spec(spec, boot, root, mounts)))
    template = GuestSpec(
        f"harness-{token}", token, "q35", "tcg", str(find_program(QEMU.program)), boot.kernel.vmlinux, initrd,
        _micro.cmdline(QEMU, ""), root.disks, context.scratch, LIMITS.memory_bytes, 1,
    )  # fmt: skip
    made = _micro.MicroArm(QEMU, template, None, {})
    yield made
    made.close()
    assert _metering.reap(token, dry_run=True) == []
    assert sorted(path.name for path in context.scratch.iterdir()) == ["initrd", "owner.json"]
    ownership.reap(token, [], dry_run=False)


def deadline(seconds: float = 60) -> int:
    return time.monotonic_ns() + round(seconds * 1e9)


def test_marks_by_the_serial_port_and_the_end_by_a_reset(arm: _micro.MicroArm, tree: RootTree) -> None:
    guest = arm.launch("t0")
    guest.wait(READY, deadline())
    assert guest.attest(deadline()).root_digest == tree.digest
    assert guest.exec(["sh", "-c", "echo out; exit 7"], 20 * 10**9).returncode == 7
    (pid,) = guest.pids()
    memory = guest.cgroup_memory()
    assert memory is not None
    assert memory.current_bytes is not None
    assert memory.current_bytes > 32 << 20
    guest.stop(deadline())
    assert guest.has_ended()
    assert guest.rusage["max_rss_bytes"] > 32 << 20  # it has ended by itself, and was collected
    assert not Path(f"/proc/{pid}").exists()
    names = [mark.milestone for mark in guest.marks]
    wanted = [REQUESTED, VMM_EXEC, KERNEL, INIT, EXEC, READY, DELETED]
    assert [name for name in names if name in wanted] == wanted


def test_a_vmm_that_is_killed_is_said_to_be(arm: _micro.MicroArm) -> None:
    guest = arm.launch("t1")
    guest.wait(INIT, deadline())
    os.kill(guest.pids()[0], signal.SIGKILL)
    with pytest.raises(TrialError, match="stand-in was killed by SIGKILL"):
        guest.wait(READY, deadline())
    guest.stop(deadline())
    assert guest.pids() == () or not Path(f"/proc/{guest.pids()[0]}").exists()

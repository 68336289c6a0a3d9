"""What the backends of small VMMs share: the same guest as under QEMU (kernel, initramfs, disk, agent).

A `Vmm` is what one of them knows: a pure function from a guest to its command line and configuration. They have no
emulation of their own: without a KVM that boots guests they are absent.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.agent.program import PATH as AGENT_PATH
from harness.backends import (
    _accelerator,
    _kvm_help,
    _metering,
    _network,
    _nic,
    _peer,
    _vm_boot,
    _vm_mounts,
    _vm_options,
    _vm_storage,
)
from harness.backends._domain import MARKS_PORT, GuestSpec, Nic, kernel_cmdline
from harness.backends._micro_guest import VSOCK_PORT, MicroGuest, Vmm
from harness.errors import CommandError, HarnessError
from harness.host import netns
from harness.host.paths import cache_dir, data_dir, runtime_dir
from harness.host.process import find_program, run
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.fields import MemoryBytes
from harness.model.spec import MountSpec, NetworkKind

_CONSOLE_MODULES = ("vmw_vsock_virtio_transport",)
_PROBE_NS = 5_000_000_000
_REFUSED: Mapping[NetworkKind, str] = {"host": "a VM has a network stack of its own and cannot share the host's"}
_RUN_DIR = re.compile(r"/([0-9a-f]{8})/")


class Options(BaseModel):
    """`path` is the VMM's program, by default the one in PATH; `args` are more of its options.

    The guest's keys are those of `backend: libvirt`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = ""
    args: tuple[str, ...] = ()
    kernel: Path | None = None
    modules: Path | None = None
    cmdline: str = ""
    disk: Literal["erofs", "ext4"] = "erofs"
    vcpus: int | None = Field(default=None, ge=1, le=32)
    memory: MemoryBytes | None = None

    def as_vm(self, vmm: Vmm) -> _vm_options.Options:
        """Return the options of the QEMU guest that is most like it: what is made of them is used here too."""
        return _vm_options.Options(machine=vmm.bus, kernel=self.kernel, modules=self.modules, disk=self.disk)


def cmdline(vmm: Vmm, extra: str) -> str:
    """Return the kernel's command line: that of a QEMU guest, with marks by another port, and what this VMM needs."""
    own = [*vmm.words, *([] if vmm.marks_port == MARKS_PORT else [f"harness_marks={vmm.marks_port:#x}"])]
    words = kernel_cmdline(vmm.bus, "kvm", tsc_khz=None, extra=" ".join([*own, extra]))
    return words.replace(f"serial,{MARKS_PORT:#x}", f"serial,{vmm.marks_port:#x}", 1)


class MicroArm:
    """A prepared VMM: every launch is a new process of it."""

    accelerator: str | None = "kvm"

    def __init__(self, vmm: Vmm, template: GuestSpec, plug: _nic.Plug | None, facts: Mapping[str, Json]) -> None:
        self._vmm, self._template, self._plug, self.facts = vmm, template, plug, facts

    def launch(self, trial_id: str) -> MicroGuest:
        name = f"harness-{self._template.token}-{re.sub('[^A-Za-z0-9]', '-', trial_id)}"
        spec = replace(self._template, name=name, sockets=self._template.sockets / trial_id)
        spec, attached = self._plug.attach(spec) if self._plug else (spec, None)
        guest = MicroGuest(self._vmm, spec, _metering.Meter(spec.token, trial_id), attached)
        try:
            guest.start()
        except BaseException:
            guest.stop(0)
            raise
        return guest

    def close(self) -> None:
        if self._plug is not None:
            self._plug.close()
        _metering.release(self._template.token)


class MicroBackend:
    """A backend for one VMM."""

    options: type[BaseModel] = Options

    def __init__(self, vmm: Vmm, doc: str) -> None:
        self.name = vmm.name
        self.doc = doc
        self._vmm = vmm

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        return (
            _need_program(options.path or self._vmm.program, self._vmm.home),
            need_kvm(),
            _need_kernel(options.as_vm(self._vmm)),
            *_vm_storage.needs(options.as_vm(self._vmm)),
        )

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        kinds = sorted({mount.kind for mount in mounts if mount.kind != "tmpfs"})
        if not kinds:
            return ()
        hint = "tmpfs: has them; backend: libvirt has volumes and binds"
        return (Capability("mounts", available=False, reason=f"{self.name}: no {' and no '.join(kinds)}", hint=hint),)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        kind = _network.choose(spec, "none", _REFUSED)
        like = options.as_vm(self._vmm)
        mounts = _vm_mounts.VmMounts(spec, "auto", like.machine, _vm_options.kernel_has(like, context.cache))
        boot = _vm_boot.prepare(like, context.cache, kind, mounts, context.say, _CONSOLE_MODULES)
        root = _vm_storage.prepare(spec, like, data_dir() / "images" / "disks")
        records = _vm_boot.agent_spec(spec, boot, root, mounts) + f"vsock={VSOCK_PORT}".encode() + b"\0"
        initrd = context.scratch / f"{spec.runtime}.initrd"
        initrd.write_bytes(boot.pack(records))
        template = self._template(spec, options, context, boot)
        template = replace(template, initrd=initrd, disks=root.disks)
        _vm_boot.refuse_too_little_memory(boot, initrd, template.memory_bytes)
        with ExitStack() as undo:
            plug = None
            if kind == "bridge":
                plug = _nic.Plug.into(context.token, boot.pack, records)
                undo.callback(plug.close)
                mac = netns.mac_of(netns.SUBNET.network_address)
                template = replace(template, nic=Nic("tap", mac, vhost=False))
            facts = {**self._facts(template, options, boot), **root.facts, **mounts.facts()}
            undo.pop_all()
        facts["network"] = _network.facts(kind, *(("virtio_net",) if plug else ()))
        return MicroArm(self._vmm, template, plug, facts)

    def _template(self, spec: ArmSpec, options: Options, context: RunContext, boot: _vm_boot.Boot) -> GuestSpec:
        return GuestSpec(
            name=f"harness-{context.token}",
            token=context.token,
            machine=self._vmm.bus,
            accelerator="kvm",
            emulator=str(find_program(options.path or self._vmm.program)),
            kernel=boot.kernel.vmlinux,
            initrd=context.scratch / "none",
            cmdline=cmdline(self._vmm, options.cmdline),
            disks=(),
            sockets=context.scratch,
            memory_bytes=options.memory or spec.limits.memory_bytes,
            vcpus=options.vcpus or math.ceil(spec.limits.cpus),
        )

    def _facts(self, template: GuestSpec, options: Options, boot: _vm_boot.Boot) -> dict[str, Json]:
        command: list[Json] = [*self._vmm.argv(template)]
        return {
            "boundary": "vm",
            "machine": self._vmm.name,
            "boot": "vmlinux",
            "accelerator": "kvm",
            "nested": _kvm_help.is_guest(),
            "program": _peer.program_facts(template.emulator),
            "command": command,
            "config": self._vmm.config(template).decode() if self._vmm.config else None,
            "cmdline": template.cmdline,
            **boot.facts(),
            "kernel_bytes": boot.kernel.vmlinux.stat().st_size,
            "initrd_bytes": template.initrd.stat().st_size,
            "disk_fs": options.disk,
        }

    def tokens(self) -> set[str]:
        return {token for token, _pid in self._running()} | _network.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        pids = [pid for found, pid in self._running() if found == token]
        others = _network.reap(token, dry_run=dry_run, but=pids)
        if not dry_run:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        lines = [f"guest: {self.name} pid {pid} of run {token}" for pid in pids]
        return [*lines, *others, *_metering.reap(token, dry_run=dry_run)]

    def _running(self) -> Iterator[tuple[str, int]]:
        """Yield (token, pid) of every process that was told to keep something in a run's directory, from its argv."""
        base = str(runtime_dir())
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            if Path(words[0]).name == self._vmm.program:
                found = next((_RUN_DIR.search(word.partition(base)[2]) for word in words if base in word), None)
                if found is not None:
                    yield found[1], int(entry.name)


# -- what must be there ----------------------------------------------------------------------------------------------


def _need_program(program: str, home: str) -> Capability:
    try:
        return Capability("vmm", available=True, reason=str(find_program(program)))
    except HarnessError as error:
        hint = f"no package of Debian's has it: a release from {home}, in PATH or named by path:"
        return Capability("vmm", available=False, reason=error.message, hint=hint)


def _need_kernel(options: _vm_options.Options) -> Capability:
    try:
        return Capability("kernel", available=True, reason=_vm_options.guest_kernel(options, cache_dir()).release)
    except HarnessError as error:
        return Capability("kernel", available=False, reason=error.message, hint=error.hint)


def need_kvm() -> Capability:
    """Return whether KVM is there and runs a few instructions; there is nothing to fall back to."""
    reason = _kvm_refused()
    if reason is None:
        return Capability("kvm", available=True, reason="runs a few instructions")
    hint = f"{_kvm_help.remedy()}; backend: libvirt can do with emulation"
    return Capability("kvm", available=False, reason=reason, hint=hint)


@functools.cache
def _kvm_refused() -> str | None:
    if platform.machine() != "x86_64":
        return f"{platform.machine()}: the guest's marks need an I/O port, which x86-64 alone has"
    missing = _accelerator.device_missing()
    if missing is not None:
        return missing
    try:
        said = run([str(AGENT_PATH), "--kvm-probe"], timeout_ns=_PROBE_NS).stdout.decode()
    except CommandError as error:
        return f"a few instructions were tried: {error.message}"
    verdict = _accelerator.micro_verdict(said)
    return verdict.reason if verdict else None

"""A QEMU guest through libvirt: the distribution's cloud kernel, the agent as init, the image as a read-only disk."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness.agent.program import PATH as AGENT_PATH
from harness.agent.program import agent_bytes, encode_spec
from harness.backends import _accelerator, _connection, _metering, _network, _nic
from harness.backends._domain import GuestSpec, Machine, domain_xml, kernel_cmdline
from harness.backends._guest import Guest
from harness.errors import CapabilityError
from harness.host.paths import cache_dir, data_dir
from harness.host.process import find_program, run
from harness.images import disk, initramfs, kernel
from harness.interfaces import Arm, ArmSpec, Capability, Json, RunContext
from harness.model.mounts import MountSpec
from harness.model.spec import NetworkKind, WorkloadSpec

EMULATOR = "qemu-system-x86_64"
_BUS = {"q35": "virtio_pci", "pc": "virtio_pci", "microvm": "virtio_mmio"}
_LATE_MODULES = ("virtio_console",)
_SOCKET_PATH_MAX_BYTES = 107  # unix(7): sun_path without its NUL


class Options(BaseModel):
    """What a scenario may say under `backend: libvirt`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine = "q35"
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    uri: str | None = None
    kernel: Path | None = None
    modules: Path | None = None
    cmdline: str = ""
    disk: Literal["erofs", "ext4"] = "erofs"
    fast_start: bool = True


def _kernel(options: Options, cache: Path) -> kernel.GuestKernel:
    if options.kernel is not None:
        return kernel.from_path(cache, options.kernel, options.modules)
    found = kernel.find(cache)
    if found is None:
        raise CapabilityError(
            "guest kernel: not in the cache", hint="scripts/setup fetches it (python -m harness.images.kernel fetch)"
        )
    return found


@functools.cache
def _tsc_khz() -> int:
    return int(run([str(AGENT_PATH), "--tsc-khz"]).stdout)


@dataclass(frozen=True, slots=True)
class _Boot:
    """What every guest of an arm shares: the kernel, its modules and their names for the agent."""

    kernel: kernel.GuestKernel
    base: bytes
    modules: tuple[str, ...]
    late_modules: tuple[str, ...]


def _boot(options: Options, cache: Path, network: NetworkKind) -> _Boot:
    guest_kernel = _kernel(options, cache)
    for_workload = (_BUS[options.machine], "virtio_blk", options.disk, "overlay", *_nic.MODULES[network])
    early = kernel.module_files(guest_kernel, for_workload)
    every = kernel.module_files(guest_kernel, (*for_workload, *_LATE_MODULES))
    paths = [*early, *(path for path in every if path not in early)]
    names = [path.lstrip("/") for path in initramfs.module_paths(paths)]
    base = initramfs.base_initramfs(agent_bytes(), paths)
    return _Boot(guest_kernel, base, tuple(names[: len(early)]), tuple(names[len(early) :]))


def _agent_spec(spec: ArmSpec, options: Options, boot: _Boot) -> bytes:
    """Half of the guest's memory may be written to, as a tmpfs allows by default and as the container side does."""
    extra = [
        ("mode", "vm"),
        ("root_device", "/dev/vda"),
        ("root_fs", options.disk),
        ("upper_bytes", str(spec.limits.memory_bytes // 2)),
        ("pids", str(spec.limits.pids)),
        ("hostname", spec.runtime),
        *(("module", name) for name in boot.modules),
        *(("late_module", name) for name in boot.late_modules),
    ]
    return encode_spec(spec.workload, extra)


def _guest_facts(options: Options, template: GuestSpec, boot: _Boot) -> dict[str, Json]:
    return {
        "boundary": "vm",
        "machine": options.machine,
        "accelerator": template.accelerator,
        "cmdline": template.cmdline,
        "kernel": boot.kernel.release,
        "kernel_digest": boot.kernel.digest,
        "kernel_bytes": boot.kernel.vmlinux.stat().st_size,
        "initrd_bytes": template.initrd.stat().st_size,
        "disk_fs": options.disk,
        "fast_start": options.fast_start,
        "qemu_started_by": "a libvirt daemon" if template.by_daemon else "this process",
        "domain_xml": domain_xml(template),
    }


class LibvirtArm:
    """A prepared VM runtime: one disk, one initramfs, one connection; every launch is a new transient domain.

    `plug` attaches guests to the run's network, None without one.
    """

    def __init__(
        self,
        connection: Any,
        template: GuestSpec,
        plug: _nic.Plug | None,
        context: RunContext,
        facts: Mapping[str, Json],
    ) -> None:
        self._connection = connection
        self._template = template
        self._plug = plug
        self._context = context
        self._facts = facts

    @property
    def facts(self) -> Mapping[str, Json]:
        return self._facts

    @property
    def accelerator(self) -> str | None:
        return self._template.accelerator

    @property
    def template(self) -> GuestSpec:
        return self._template

    def launch(self, trial_id: str) -> Guest:
        sockets = self._context.scratch / trial_id
        spec = replace(
            self._template,
            name=f"harness-{self._context.token}-{trial_id}",
            sockets=sockets,
        )
        spec, place = self._plug.attach(spec) if self._plug else (spec, None)
        guest = Guest(self._connection, spec, _meter(spec, trial_id), place)
        try:
            guest.start()
        except BaseException:
            guest.stop(0)
            raise
        return guest

    def close(self) -> None:
        _connection.release(self._connection)
        if self._plug is not None:
            self._plug.close()
        _metering.release(self._context.token)


class LibvirtBackend:
    name = "libvirt"
    doc = "a QEMU guest (KVM or TCG) through libvirt, by default its embedded driver: no daemon"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        return (
            _need_emulator(),
            _need_libvirt(options),
            _need_kernel(options),
            _need_disk_tool(options),
            _need_accel(options),
        )

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        reason = "guests mount nothing yet"
        return tuple(Capability(f"mount {mount.target}", available=False, reason=reason) for mount in mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        kind = _network.choose(spec, "none", _nic.refused(by_daemon=_connection.is_daemon(options.uri)))
        boot = _boot(options, context.cache, kind)
        if options.uri is None and not _connection.knows_qemu(context.cache):
            context.say("libvirt asks QEMU what it can do: about 8 s, once for each QEMU")
        connection = _connection.connect(options.uri, context.cache)
        versions = _connection.versions(connection)
        template = self._template(spec.limits.memory_bytes, math.ceil(spec.limits.cpus), options, boot, context)
        if _connection.is_daemon(options.uri):
            template = replace(template, by_daemon=True, owner=_connection.qemu_owner(connection))
        template, why = self._accelerated(template, connection, options, context)
        image = disk.disk_image(spec.tree, data_dir() / "images" / "disks", fs=options.disk)
        initrd = context.scratch / f"{spec.runtime}.initrd"
        agent_spec = _agent_spec(spec, options, boot)
        initrd.write_bytes(boot.base + initramfs.spec_archive(agent_spec))
        template = replace(template, initrd=initrd, disk=image.path)
        plug, network_facts = None, _network.facts(kind)
        if kind == "bridge":
            template, network_facts = _nic.with_nic(template)
            plug = _nic.Plug.into(context.token, boot.base, agent_spec)
        facts: dict[str, Json] = {
            **_guest_facts(options, template, boot),
            "accelerator_reason": why,
            "disk_bytes": image.size_bytes,
            "network": network_facts,
            **versions,
        }
        return LibvirtArm(connection, template, plug, context, facts)

    def _template(self, memory_bytes: int, vcpus: int, options: Options, boot: _Boot, context: RunContext) -> GuestSpec:
        sockets = context.scratch / "template"
        longest = len(os.fsencode(context.scratch / ("x" * 40) / "firmware"))
        if longest > _SOCKET_PATH_MAX_BYTES:
            raise CapabilityError(
                f"sockets: {context.scratch}: the path is too long for a unix socket",
                hint="set HARNESS_RUNTIME to a short directory",
            )
        return GuestSpec(
            name=f"harness-{context.token}",
            token=context.token,
            machine=options.machine,
            accelerator="tcg",
            emulator=str(find_program(EMULATOR)),
            kernel=boot.kernel.vmlinux,
            initrd=context.scratch / "none",
            cmdline=kernel_cmdline(options.machine, "tcg", tsc_khz=_tsc_khz(), extra=options.cmdline),
            disk=None,
            sockets=sockets,
            memory_bytes=memory_bytes,
            vcpus=vcpus,
            fast_start=options.fast_start,
        )

    def _accelerated(
        self, template: GuestSpec, connection: Any, options: Options, context: RunContext
    ) -> tuple[GuestSpec, str]:
        """Return the template with the accelerator that is usable here, and why that one."""
        with_kvm = replace(
            template,
            accelerator="kvm",
            cmdline=kernel_cmdline(options.machine, "kvm", tsc_khz=None, extra=options.cmdline),
        )

        def verdict() -> _accelerator.Verdict:
            return _accelerator.probe(
                context.cache,
                _verdict_key(template.kernel, Path(template.emulator), template.machine),
                lambda: _trial_guest(with_kvm, connection, context),
                context.say,
            )

        accelerator, why = _accelerator.choose(options.accel, verdict)
        return (with_kvm if accelerator == "kvm" else template), why

    def tokens(self) -> set[str]:
        return {token for token, _pid in _guests()} | _network.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        guests = [pid for found, pid in _guests() if found == token]
        others = _network.reap(token, dry_run=dry_run, but=guests)
        if not dry_run:
            for pid in guests:
                os.kill(pid, signal.SIGKILL)
        lines = [f"guest: qemu pid {pid} of run {token}" for pid in guests]
        return [*lines, *others, *_metering.reap(token, dry_run=dry_run)]


def _verdict_key(vmlinux: Path, emulator: Path, machine: str) -> str:
    """What a verdict on KVM holds for: this boot of the host, these very files, this machine type."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    files = " ".join(f"{path.resolve()} {path.stat().st_mtime_ns}" for path in (vmlinux, emulator))
    return f"{boot_id} {machine} {hashlib.sha256(files.encode()).hexdigest()[:16]}"


def _trial_guest(template: GuestSpec, connection: Any, context: RunContext) -> Guest:
    """A guest without a disk that only has to reach its init."""
    initrd = context.scratch / "probe.initrd"
    initrd.write_bytes(initramfs.base_initramfs(agent_bytes(), []) + initramfs.spec_archive(_nothing_to_run()))
    sockets = context.scratch / "probe"
    spec = replace(template, name=f"{template.name}-probe", initrd=initrd, sockets=sockets)
    return Guest(connection, spec, _meter(spec, "probe"))


def _meter(spec: GuestSpec, trial_id: str) -> _metering.Meter | None:
    """None where a daemon starts QEMU: it is born in a group of the daemon's, and what it holds stays charged there."""
    return None if spec.by_daemon else _metering.Meter(spec.token, trial_id)


def _nothing_to_run() -> bytes:
    return encode_spec(WorkloadSpec(argv=("/none",)), [("mode", "vm"), ("root_device", "/dev/none")])


def _guests() -> list[tuple[str, int]]:
    """Return (token, pid) of every QEMU process whose guest carries a harness name, from /proc/PID/cmdline."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for word in words:
            if word.startswith(b"guest=harness-"):
                found.append((word.decode("utf-8", "replace").split("-")[1].split(",")[0], int(entry.name)))
    return found


def _need_emulator() -> Capability:
    try:
        return Capability("qemu", available=True, reason=str(find_program(EMULATOR)))
    except CapabilityError as error:
        return Capability("qemu", available=False, reason=error.message, hint=error.hint)


def _need_libvirt(options: Options) -> Capability:
    try:
        if options.uri is not None:
            _connection.check_uri(options.uri)
        libvirt = _connection.import_libvirt()
    except CapabilityError as error:
        return Capability("libvirt", available=False, reason=error.message, hint=error.hint)
    number = libvirt.getVersion()
    return Capability("libvirt", available=True, reason=f"libvirt {number // 10**6}.{number // 1000 % 1000}")


def _need_kernel(options: Options) -> Capability:
    try:
        return Capability("kernel", available=True, reason=_kernel(options, cache_dir()).release)
    except CapabilityError as error:
        return Capability("kernel", available=False, reason=error.message, hint=error.hint)


def _need_disk_tool(options: Options) -> Capability:
    tool = "mkfs.erofs" if options.disk == "erofs" else "mke2fs"
    try:
        return Capability("disk", available=True, reason=str(find_program(tool)))
    except CapabilityError as error:
        return Capability("disk", available=False, reason=error.message, hint=error.hint)


def _need_accel(options: Options) -> Capability:
    """Cheap: says what is known. The proof is a boot, made once when a run is prepared."""
    if options.accel == "tcg":
        return Capability("accel", available=True, reason="tcg: asked for by the scenario")
    missing = _accelerator.device_missing()
    verdict = _accelerator.Verdict(usable=False, reason=missing) if missing else _known_verdict(options)
    if verdict is None:
        return Capability("accel", available=True, reason="kvm, if a guest boots with it (tried at a run)")
    if verdict.usable:
        return Capability("accel", available=True, reason=f"kvm: {verdict.reason}")
    if options.accel == "kvm":
        return Capability(
            "accel", available=False, reason=f"kvm is not usable: {verdict.reason}", hint="accel: auto takes TCG then"
        )
    return Capability("accel", available=True, reason=f"tcg: kvm is not usable: {verdict.reason}")


def _known_verdict(options: Options) -> _accelerator.Verdict | None:
    """Return what was found since this host's boot, None where KVM was not tried yet."""
    try:
        guest_kernel, emulator = _kernel(options, cache_dir()), find_program(EMULATOR)
    except CapabilityError:
        return None  # another need says so
    return _accelerator.cached(cache_dir(), _verdict_key(guest_kernel.vmlinux, emulator, options.machine))


PLUGIN = LibvirtBackend()

"""A QEMU guest through libvirt: the distribution's cloud kernel, the agent as init, the image as a read-only disk."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.agent.program import agent_bytes, encode_spec
from harness.backends import (
    _accelerator,
    _connection,
    _ksm,
    _kvm_help,
    _metering,
    _network,
    _nic,
    _remote,
    _saved,
    _vm_boot,
    _vm_mounts,
    _vm_needs,
    _vm_storage,
)
from harness.backends._domain import GuestSpec, domain_xml
from harness.backends._guest import Guest
from harness.backends._vm_boot import Boot
from harness.backends._vm_levers import Levers
from harness.backends._vm_mounts import VmMounts
from harness.backends._vm_needs import EMULATOR, verdict_key
from harness.backends._vm_options import Options, kernel_has, root_fs
from harness.errors import CapabilityError
from harness.host.paths import cache_dir, data_dir, runtime_dir
from harness.host.process import find_program
from harness.images import initramfs, trial_volumes
from harness.interfaces import Arm, ArmSpec, Capability, Instance, Json, RunContext, SavedForm
from harness.model.spec import Limits, MountSpec, WorkloadSpec

_SOCKET_PATH_MAX_BYTES = 107  # unix(7): sun_path without its NUL


def _guest_facts(options: Options, template: GuestSpec, boot: Boot) -> dict[str, Json]:
    return {
        "boundary": "vm",
        "machine": options.machine,
        "boot": options.boot,
        "firmware": options.firmware,
        "levers": _levers(options),
        "changes": {**options.changes()},
        "accelerator": template.accelerator,
        "nested": template.accelerator == "kvm" and _kvm_help.is_guest(),
        "cmdline": template.cmdline,
        **boot.facts(),
        "kernel_bytes": template.kernel.stat().st_size if template.kernel else None,
        "initrd_bytes": template.initrd.stat().st_size,
        "disk_fs": root_fs(options),
        "storage": options.stored.driver,
        "fast_start": options.fast_start,
        "icount": options.icount,
        "qemu_started_by": "a libvirt daemon" if template.by_daemon else "this process",
        "domain_xml": domain_xml(template),
    }


def _levers(options: Options) -> dict[str, Json]:
    """Return the levers that are not at their defaults."""
    chosen = options.model_dump(mode="json", include=set(Levers.model_fields), exclude_defaults=True)
    return dict(sorted(chosen.items()))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What each guest of an arm gets of its own. `plug` attaches it to the run's network, None without one.

    `merging`: KSM runs on the host while it does.
    """

    boot: Boot
    root: _vm_storage.Root
    mounts: VmMounts
    plug: _nic.Plug | None
    merging: bool = False


class LibvirtArm:
    """A prepared VM runtime: its disks, one initramfs, one connection; every launch is a new transient domain."""

    def __init__(
        self, connection: Any, template: GuestSpec, parts: _Parts, context: RunContext, facts: Mapping[str, Json]
    ) -> None:
        self._connection = connection
        self._template = template
        self._parts = parts
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
        spec = replace(self._template, name=f"harness-{self._context.token}-{trial_id}", sockets=sockets)
        place = trial_volumes.place_of(spec.token, trial_id)
        with ExitStack() as undo:
            undo.callback(trial_volumes.remove, place)
            spec = self._parts.mounts.take(self._parts.root.take(spec, trial_id), trial_id)
            spec = self._parts.boot.take(spec, trial_id)
            spec, attached = self._parts.plug.attach(spec) if self._parts.plug else (spec, None)
            if self._parts.merging:
                undo.enter_context(_ksm.running(self._context.scratch))
            meter = _meter(spec, trial_id)
            guest = Guest(self._connection, spec, meter, attached, undo.pop_all().close)
        try:
            guest.start()
        except BaseException:
            guest.stop(0)
            raise
        return guest

    def save(self, instance: Instance, file: Path, form: SavedForm) -> None:
        """Raises: BackendError where libvirt cannot, CapabilityError where a part of it cannot be in a file."""
        assert isinstance(instance, Guest)
        if self._template.by_daemon or self._parts.plug is not None:
            what = "a libvirt daemon's" if self._template.by_daemon else "one with a network of the run"
            raise CapabilityError(f"start: restored: {what} guest is not saved", hint="leave out uri and network")
        instance.save(file, form)

    def restore(self, saved: Instance, file: Path, form: SavedForm, trial_id: str) -> Guest:
        assert isinstance(saved, Guest)
        spec, undo = replace(saved.spec, sockets=self._context.scratch / trial_id), ExitStack()
        if form == "internal":
            spec = _saved.with_own_disk(spec, file, undo)
        guest = Guest(self._connection, spec, _meter(spec, trial_id), release=undo.close)
        try:
            guest.begin_from(None if form == "internal" else file, saved)
        except BaseException:
            guest.stop(0)
            raise
        return guest

    def close(self) -> None:
        _connection.release(self._connection)
        if self._parts.plug is not None:
            self._parts.plug.close()
        _metering.release(self._context.token)


class LibvirtBackend:
    name = "libvirt"
    doc = "a QEMU guest (KVM or TCG) through libvirt, by default its embedded driver: no daemon"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        return _vm_needs.needs(options)

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        assert isinstance(options, Options)
        if not _connection.is_here(options.uri):
            return _remote.mount_needs(mounts)
        return _vm_mounts.needs(mounts, options.share, options.machine, kernel_has(options, cache_dir()))

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        if options.uri is not None:
            _connection.check_uri(options.uri)
        kind = _network.choose(spec, "none", _nic.refused(by_daemon=_connection.is_daemon(options.uri)))
        mounts = VmMounts(spec, options.share, options.machine, kernel_has(options, context.cache))
        boot = _vm_boot.prepare(options, context.cache, kind, mounts, context.say)
        if options.uri is None and not _connection.knows_qemu(context.cache):
            context.say("libvirt asks QEMU what it can do: about 8 s, once for each QEMU")
        connection = _connection.connect(options.uri, context.cache)
        versions = _connection.versions(connection)
        template = self._template(spec.limits, options, boot, context)
        if _connection.is_daemon(options.uri):
            template = replace(template, by_daemon=True, owner=_connection.qemu_owner(connection))
        template, why = self._accelerated(template, connection, options, boot, context)
        _connection.check_machine(connection, template.emulator, options.machine, template.domain_type, options.cpu)
        root = _vm_storage.prepare(spec, options, data_dir() / "images" / "disks")
        boot = replace(boot, base=boot.base + root.archive)
        initrd = context.scratch / f"{spec.runtime}.initrd"
        agent_spec = _vm_boot.agent_spec(spec, boot, root, mounts)
        initrd.write_bytes(boot.pack(agent_spec))
        _vm_boot.refuse_too_little_memory(boot, initrd, template.memory_bytes)
        template = mounts.prepare(replace(template, initrd=initrd, disks=root.disks), spec.runtime, context)
        plug, network_facts = None, _network.facts(kind)
        if kind == "bridge":
            template, network_facts = _nic.with_nic(template)
            plug = _nic.Plug.into(context.token, boot.pack, agent_spec)
        facts: dict[str, Json] = {
            **_guest_facts(options, template, boot),
            "accelerator_reason": why,
            **root.facts,
            **mounts.facts(),
            "network": network_facts,
            **versions,
        }
        return LibvirtArm(connection, template, _Parts(boot, root, mounts, plug, options.ksm == "on"), context, facts)

    def _template(self, limits: Limits, options: Options, boot: Boot, context: RunContext) -> GuestSpec:
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
            kernel=_vm_boot.kernel_file(options, boot),
            initrd=context.scratch / "none",
            cmdline=_vm_boot.cmdline(options, "tcg"),
            disks=(),
            sockets=sockets,
            memory_bytes=options.memory or limits.memory_bytes,
            vcpus=options.vcpus or math.ceil(limits.cpus),
            hardware=options.hardware,
            fast_start=options.fast_start,
            icount=options.icount,
            tsc_khz=None if options.icount else _vm_boot.tsc_khz(),
        )

    def _accelerated(
        self, template: GuestSpec, connection: Any, options: Options, boot: Boot, context: RunContext
    ) -> tuple[GuestSpec, str]:
        """Return the template with the accelerator that is usable here, and why that one."""
        if options.icount:
            return template, "tcg: instructions are counted, which only emulation does"
        with_kvm = replace(
            template,
            accelerator="kvm",
            tsc_khz=None,
            cmdline=_vm_boot.cmdline(options, "kvm"),
        )

        def verdict() -> _accelerator.Verdict:
            return _accelerator.probe(
                context.cache,
                verdict_key(boot.kernel.vmlinux, Path(template.emulator), template.machine),
                lambda: _trial_guest(replace(with_kvm, **_vm_boot.to_probe(options, boot)), connection, context),
                context.say,
            )

        accelerator, why = _accelerator.choose(options.accel, verdict)
        return (with_kvm if accelerator == "kvm" else template), why

    def tokens(self) -> set[str]:
        return {token for token, _pid in _guests()} | _network.tokens() | trial_volumes.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        guests = [pid for found, pid in _guests() if found == token]
        others = _network.reap(token, dry_run=dry_run, but=guests)
        if not dry_run:
            for pid in guests:
                os.kill(pid, signal.SIGKILL)
        lines = [f"guest: qemu pid {pid} of run {token}" for pid in guests]
        lines += _ksm.put_back(runtime_dir() / token, dry_run=dry_run)
        return [*lines, *others, *_metering.reap(token, dry_run=dry_run), *trial_volumes.reap(token, dry_run=dry_run)]


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


PLUGIN = LibvirtBackend()

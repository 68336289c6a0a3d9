"""A scenario's mounts in a guest: volumes as disks, directories of the host as shares, tmpfs by the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.backends import _mounts, _shares
from harness.backends._domain import Disk, GuestSpec, Machine, ShareKind
from harness.errors import CapabilityError
from harness.host.process import find_program
from harness.images import trial_volumes
from harness.interfaces import ArmSpec, Capability, Json, RunContext
from harness.model.spec import MountSpec

VOLUME_MODULES = ("virtio_blk", "ext4")
KernelHas = Callable[[ShareKind], None]


class VmMounts:
    """An arm's mounts: what its guests have attached, and what the agent makes of it."""

    def __init__(self, spec: ArmSpec, share: _shares.ShareOption, machine: Machine, kernel_has: KernelHas) -> None:
        self.mounts = spec.mounts
        self._owner = trial_volumes.Owner(spec.workload.uid, spec.workload.gid)
        self._templates: dict[str, Path] = {}
        binds = any(mount.kind == "bind" for mount in spec.mounts)
        self.way = _shares.choose(share, machine, kernel_has) if binds else None

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that the guest needs for them, nothing where it has no mounts."""
        volumes = VOLUME_MODULES if trial_volumes.names(self.mounts) else ()
        return (*volumes, *(_shares.MODULES[self.way.kind] if self.way else ()))

    def records(self) -> list[tuple[str, str]]:
        """Return the agent's records of them."""
        return _shares.records(self.mounts, self.way, _mounts.tmpfs_options)

    def prepare(self, template: GuestSpec, runtime: str, context: RunContext) -> GuestSpec:
        """Make the empty disks, of which each trial gets copies; return the template with the shares.

        Raises: CapabilityError, CommandError.
        """
        for name, size_bytes in trial_volumes.names(self.mounts).items():
            self._templates[name] = trial_volumes.empty_disk(context.cache, size_bytes, self._owner)
        if self.way is None:
            return template
        return replace(template, shares=_shares.shares(self.mounts, self.way, context.scratch / f"{runtime}.shares"))

    def take(self, guest: GuestSpec, trial_id: str) -> GuestSpec:
        """Return the guest with new disks for its volumes. Raises: BackendError."""
        made = trial_volumes.make_disks(trial_volumes.place_of(guest.token, trial_id), self._templates)
        disks = tuple(Disk(path, read_only=False, serial=name) for name, path in made.items())
        return replace(guest, disks=(*guest.disks, *disks))

    def facts(self) -> dict[str, Json]:
        """Return what run.json holds of them."""
        how: Mapping[str, Json] = {
            "volume": "virtio disk, ext4, cache=writeback",
            "bind": self.way.kind if self.way else None,
            "tmpfs": "tmpfs in the guest's memory",
        }
        facts: dict[str, Json] = {"mounts": _mounts.facts(self.mounts, how)}
        return {**facts, "share": f"{self.way.kind}: {self.way.reason}"} if self.way else facts


def needs(
    mounts: Sequence[MountSpec], share: _shares.ShareOption, machine: Machine, kernel_has: KernelHas
) -> tuple[Capability, ...]:
    """Return what the mounts need of this host; `kernel_has` tells what the guest's kernel can."""
    found = list(_mounts.needs(mounts))
    if any(mount.kind == "bind" for mount in mounts):
        found.append(_need_share(share, machine, kernel_has))
    if any(mount.kind == "volume" for mount in mounts):
        found.append(_need_mke2fs())
    return tuple(found)


def _need_share(share: _shares.ShareOption, machine: Machine, kernel_has: KernelHas) -> Capability:
    try:
        way = _shares.choose(share, machine, kernel_has)
    except CapabilityError as error:
        return Capability("share", available=False, reason=error.message, hint=error.hint)
    return Capability("share", available=True, reason=f"{way.kind}: {way.reason}")


def _need_mke2fs() -> Capability:
    try:
        return Capability("volume", available=True, reason=str(find_program(trial_volumes.MKE2FS)))
    except CapabilityError as error:
        return Capability("volume", available=False, reason=error.message, hint=error.hint)

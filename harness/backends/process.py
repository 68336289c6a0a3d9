"""The control: the same agent, tree and cgroup limits in a plain process of the host, in a root of its own (chroot).

No namespaces and all privileges. What it takes is the floor of everything else: the harness's own overhead, the cgroup,
the agent. Its root is mounted before the clock starts, since the container's own mounts are part of what is compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from pydantic import BaseModel, ConfigDict

from harness.backends import _counters, _local, _mounts, _network
from harness.container import hostroot, launcher, plan_control
from harness.interfaces import Arm, ArmSpec, Capability, Instance, Json, RunContext
from harness.model.spec import MountSpec


class Options(BaseModel):
    """What a scenario may say under `backend: process`. `count`: see `builtin`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: bool = False


class ProcessArm:
    """A prepared control; every launch gets a fresh root."""

    accelerator: str | None = None

    def __init__(self, kit: _local.Kit, spec: ArmSpec, places: _network.Places, facts: Mapping[str, Json]) -> None:
        self._kit = kit
        self._tree = str(spec.tree.path)
        self._places = places
        self._volumes = _mounts.Volumes(spec, kit.context.token)
        self.facts: Mapping[str, Json] = facts

    def launch(self, trial_id: str) -> Instance:
        with ExitStack() as undo:
            directory = str(self._kit.context.scratch / trial_id)
            with _local.translated(self._kit.runtime):
                root = hostroot.mount_root(directory, self._tree, self._kit.memory_bytes // 2)
            undo.callback(self._volumes.drop, trial_id)
            undo.callback(hostroot.unmount_root, directory)
            _mounts.mount_below(root, self._volumes.mounts, self._volumes.take(trial_id))
            place = self._places.take()
            undo.callback(place.close)
            steps = plan_control.process_steps(
                plan_control.ProcessSpec(root, self._tree, place.path), self._kit.launch()
            )
            memfd = launcher.plan_memfd(steps)

            def remove() -> None:
                place.close()
                hostroot.unmount_root(directory)
                self._volumes.drop(trial_id)

            try:
                requested_ns = time.monotonic_ns()
                started = _local.start(self._kit, memfd, trial_id, requested_ns, remove)
            finally:
                os.close(memfd)
            undo.pop_all()
        started.address = place.address
        return started

    def close(self) -> None:
        self._places.close()
        self._kit.close()


class ProcessBackend:
    name = "process"
    doc = "the control: the same workload and limits in a plain process of the host, in a root of its own"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        return (*_local.needs(), *([_counters.need()] if options.count else []))

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _mounts.needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        kind = _network.choose(spec, "host", {})
        assert isinstance(options, Options)
        kit = _local.Kit(spec, "process", context)
        try:
            kit.call_event = _counters.call_event() if options.count else None
            places = _network.Places(kind, context.token, ("none", "bridge"))
        except BaseException:
            kit.close()
            raise
        mounts = _mounts.Volumes(spec, context.token).facts()
        return ProcessArm(kit, spec, places, {**kit.facts(), "network": _network.facts(kind, "veth"), "mounts": mounts})

    def tokens(self) -> set[str]:
        return _local.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _local.reap(token, dry_run=dry_run)


PLUGIN = ProcessBackend()

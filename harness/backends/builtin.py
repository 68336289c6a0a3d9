"""The built-in container runtime: own namespaces, overlay root, cgroup, 14 capabilities, seccomp filter."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.backends import _counters, _local, _mounts, _network, _storage
from harness.container import defaults, launcher, plan, seccomp, seccomp_default
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.spec import Capabilities, ContainerSpec, Namespace, Overlay, Process, Seccomp
from harness.errors import CapabilityError
from harness.host.paths import data_dir
from harness.images.storage import leftovers
from harness.interfaces import Arm, ArmSpec, Capability, Instance, Json, RunContext
from harness.model.spec import MountSpec, NetworkKind

DEFAULT_NETWORK: NetworkKind = "none"
_NO_PATH_YET = "/proc/HARNESS/fd/NETWORK"  # a plan for people to read: every container of a bridge joins its own


class Options(BaseModel):
    """What a scenario may say under `backend: builtin`. `capabilities` are names without `cap_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    capabilities: tuple[str, ...] = defaults.DOCKER_CAPABILITIES
    no_new_privs: bool = True
    seccomp: Literal["default", "unconfined"] = "default"
    cgroup_join: Literal["fast", "procs"] = "fast"
    storage: _storage.StorageOption = _storage.Storage()
    count: bool = False  # system calls and instructions of each start, for the probe boot


def namespaces(network: NetworkKind, path: str) -> tuple[Namespace, ...]:
    """Return the namespaces of a container; the one at `path` is for `bridge` alone."""
    others = tuple(namespace for namespace in defaults.NAMESPACES if namespace.kind != "network")
    own: dict[NetworkKind, tuple[Namespace, ...]] = {
        "none": (Namespace("network"),),
        "host": (),
        "bridge": (Namespace("network", path),),
    }
    return (*others, *own[network])


def container_spec(spec: ArmSpec, options: Options, workspace: str) -> ContainerSpec:
    """Return the container of an arm: what Docker's containers have, over the arm's tree."""
    volumes = _mounts.Volumes(spec, "").anywhere
    tree = str(spec.tree.path)
    names = options.capabilities
    process = Process((), capabilities=Capabilities(names, names, names), no_new_privs=options.no_new_privs)
    return ContainerSpec(
        Overlay((tree,)),
        process,
        workspace,
        workspace_bytes=spec.limits.memory_bytes // 2,
        namespaces=namespaces(_network.choose(spec, DEFAULT_NETWORK, {}), _NO_PATH_YET),
        hostname=spec.runtime,
        mounts=(*defaults.mounts(), *_mounts.container_mounts(spec.mounts, volumes)),
        masked_paths=defaults.MASKED_PATHS,
        readonly_paths=defaults.READONLY_PATHS,
        attested=tree,
    )


def _container(spec: ArmSpec, options: Options, kit: _local.Kit, roots: _storage.Roots) -> ContainerSpec:
    container = container_spec(spec, options, str(kit.context.scratch))
    if options.seccomp == "default":
        profile = seccomp_default.default_profile(options.capabilities)
        program = seccomp.compiled(profile, str(kit.context.cache / "seccomp"))
        kit.filter(program, f"default, {len(program) // seccomp.INSTRUCTION_BYTES} instructions")
        process = replace(container.process, seccomp=Seccomp(program, seccomp.flags(profile)))
        container = replace(container, process=process)
    return roots.fill(container, _launch(container, kit).fd_mounts)


def _launch(container: ContainerSpec, kit: _local.Kit) -> plan.Launch:
    return kit.launch(seccomp=container.process.seccomp is not None, keyring=f"_ses.{kit.parent}")


def _steps(container: ContainerSpec, kit: _local.Kit) -> tuple[plan.Step, ...]:
    return plan.container_steps(container, _launch(container, kit))


@dataclass(frozen=True, slots=True)
class _Makers:
    """What is made for each container apart: its network, its volumes, its root."""

    places: _network.Places
    volumes: _mounts.Volumes
    roots: _storage.Roots


class BuiltinArm:
    """A prepared container runtime: one plan, which every launch takes.

    Each has its own where it joins a network or has volumes.
    """

    accelerator: str | None = None

    def __init__(
        self,
        kit: _local.Kit,
        container: ContainerSpec,
        makers: _Makers,
        facts: Mapping[str, Json],
    ) -> None:
        self._kit = kit
        self._container = container
        self._places, self._volumes, self._roots = makers.places, makers.volumes, makers.roots
        self._plan = launcher.plan_memfd(_steps(container, kit))
        self.facts: Mapping[str, Json] = {**kit.facts(), **facts}

    def launch(self, trial_id: str) -> Instance:
        with ExitStack() as undo:
            place = self._places.take()
            undo.callback(place.close)
            volumes = self._volumes.take(trial_id)
            undo.callback(self._volumes.drop, trial_id)

            def remove() -> None:  # the container's mounts have ended with its last process
                place.close()
                self._volumes.drop(trial_id)
                self._roots.drop(trial_id)

            steps = self._plan if place.path is None and not volumes else self._plan_for(place.path, volumes)
            try:
                requested_ns = time.monotonic_ns()
                with self._roots.prepared(trial_id, undo) as root:
                    started = _local.start(self._kit, steps, trial_id, requested_ns, remove, root.fds)
            finally:
                if steps != self._plan:
                    os.close(steps)
            undo.pop_all()
        started.address = place.address
        started.helpers = root.helpers
        return started

    def _plan_for(self, network: str | None, volumes: Mapping[str, Path]) -> int:
        mounts = (*defaults.mounts(), *_mounts.container_mounts(self._volumes.mounts, volumes))
        container = replace(self._container, mounts=mounts)
        if network is not None:
            container = replace(container, namespaces=namespaces("bridge", network))
        return launcher.plan_memfd(_steps(container, self._kit))

    def close(self) -> None:
        os.close(self._plan)
        self._places.close()
        self._roots.close()
        self._kit.close()


class BuiltinBackend:
    name = "builtin"
    doc = "the harness's own container runtime: namespaces, overlay, cgroup, capabilities, seccomp"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        return (*_local.needs(), *_storage.needs(options.storage), *([_counters.need()] if options.count else []))

    def mount_needs(self, options: BaseModel, mounts: Sequence[MountSpec]) -> Sequence[Capability]:
        return _mounts.needs(mounts)

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        kind = _network.choose(spec, DEFAULT_NETWORK, {})
        with ExitStack() as undo:
            kit = _local.Kit(spec, "container", context)
            undo.callback(kit.close)
            kit.cgroup_join = options.cgroup_join
            kit.call_event = _counters.call_event() if options.count else None
            roots = _storage.Roots(spec, options.storage, context)
            undo.callback(roots.close)
            try:
                container = _container(spec, options, kit, roots)
                steps = _steps(container, kit)
            except ContainerError as error:
                raise CapabilityError(
                    f"{spec.runtime}: {error}", hint=f"known: {', '.join(defaults.CAPABILITIES)}"
                ) from error
            places = _network.Places(kind, context.token, ("bridge",))
            undo.pop_all()
        volumes = _mounts.Volumes(spec, context.token)
        facts: dict[str, Json] = {
            "capabilities": list(options.capabilities),
            "no_new_privs": options.no_new_privs,
            "network": _network.facts(kind, "veth"),
            "mounts": volumes.facts(),
            "storage": roots.facts(),
            "plan": [str(step) for step in steps],
        }
        return BuiltinArm(kit, container, _Makers(places, volumes, roots), facts)

    def tokens(self) -> set[str]:
        return _local.tokens() | leftovers.tokens(data_dir())

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        lines = _local.reap(token, dry_run=dry_run)  # processes first: what they have mounted is busy
        return [*lines, *leftovers.reap(data_dir(), token, dry_run=dry_run)]


PLUGIN = BuiltinBackend()

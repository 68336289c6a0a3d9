"""The built-in container runtime: own namespaces, overlay root, cgroup, 14 capabilities, seccomp filter."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from harness.backends import _local
from harness.container import defaults, launcher, plan, seccomp, seccomp_default
from harness.container.errors import ContainerError
from harness.container.spec import Capabilities, ContainerSpec, Overlay, Process, Seccomp
from harness.errors import CapabilityError
from harness.interfaces import Arm, ArmSpec, Capability, Instance, Json, RunContext


class Options(BaseModel):
    """What a scenario may say under `backend: builtin`. `capabilities` are names without `cap_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    capabilities: tuple[str, ...] = defaults.DOCKER_CAPABILITIES
    no_new_privs: bool = True
    seccomp: Literal["default", "unconfined"] = "default"


def container_spec(spec: ArmSpec, options: Options, workspace: str) -> ContainerSpec:
    """Return the container of an arm: what Docker's containers have, over the arm's tree."""
    tree = str(spec.tree.path)
    names = options.capabilities
    process = Process((), capabilities=Capabilities(names, names, names), no_new_privs=options.no_new_privs)
    return ContainerSpec(
        Overlay((tree,)),
        process,
        workspace,
        spec.limits.memory_bytes // 2,
        namespaces=defaults.NAMESPACES,
        hostname=spec.runtime,
        mounts=defaults.mounts(),
        masked_paths=defaults.MASKED_PATHS,
        readonly_paths=defaults.READONLY_PATHS,
        attested=tree,
    )


def _steps(spec: ArmSpec, options: Options, kit: _local.Kit) -> tuple[plan.Step, ...]:
    container = container_spec(spec, options, str(kit.context.scratch))
    if options.seccomp == "default":
        profile = seccomp_default.default_profile(options.capabilities)
        program = seccomp.compiled(profile, str(kit.context.cache / "seccomp"))
        kit.filter(program, f"default, {len(program) // seccomp.INSTRUCTION_BYTES} instructions")
        process = replace(container.process, seccomp=Seccomp(program, seccomp.flags(profile)))
        container = replace(container, process=process)
    launch = kit.launch(seccomp=options.seccomp == "default", keyring=f"_ses.{kit.parent}")
    return plan.container_steps(container, launch)


class BuiltinArm:
    """A prepared container runtime: one plan, which every launch takes."""

    accelerator: str | None = None

    def __init__(self, kit: _local.Kit, steps: Sequence[plan.Step], facts: Mapping[str, Json]) -> None:
        self._kit = kit
        self._plan = launcher.plan_memfd(steps)
        self.facts: Mapping[str, Json] = facts

    def launch(self, trial_id: str) -> Instance:
        requested_ns = time.monotonic_ns()
        return _local.start(self._kit, self._plan, trial_id, requested_ns, _nothing_else)

    def close(self) -> None:
        os.close(self._plan)
        self._kit.close()


def _nothing_else() -> None:
    """The container's mounts ended with its last process."""


class BuiltinBackend:
    name = "builtin"
    doc = "the harness's own container runtime: namespaces, overlay, cgroup, capabilities, seccomp"
    options: type[BaseModel] = Options

    def needs(self, options: BaseModel) -> Sequence[Capability]:
        return _local.needs()

    def prepare(self, spec: ArmSpec, options: BaseModel, context: RunContext) -> Arm:
        assert isinstance(options, Options)
        kit = _local.Kit(spec, "container", context)
        try:
            steps = _steps(spec, options, kit)
        except ContainerError as error:
            kit.close()
            raise CapabilityError(
                f"{spec.runtime}: {error}", hint=f"known: {', '.join(defaults.CAPABILITIES)}"
            ) from error
        facts: dict[str, Json] = {
            **kit.facts(),
            "capabilities": list(options.capabilities),
            "no_new_privs": options.no_new_privs,
            "plan": [str(step) for step in steps],
        }
        return BuiltinArm(kit, steps, facts)

    def tokens(self) -> set[str]:
        return _local.tokens()

    def reap(self, token: str, *, dry_run: bool) -> Sequence[str]:
        return _local.reap(token, dry_run=dry_run)


PLUGIN = BuiltinBackend()

"""The built-in container runtime: own namespaces, overlay root, cgroup, 14 capabilities, no network but loopback."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from harness.backends import _local
from harness.container import launcher, plan
from harness.container.errors import ContainerError
from harness.errors import CapabilityError
from harness.interfaces import Arm, ArmSpec, Capability, Instance, Json, RunContext


class Options(BaseModel):
    """What a scenario may say under `backend: builtin`. `capabilities` are names without `cap_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    capabilities: tuple[str, ...] = plan.DOCKER_CAPABILITIES
    no_new_privs: bool = True


def _steps(spec: ArmSpec, options: Options, kit: _local.Kit) -> tuple[plan.Step, ...]:
    tree = str(spec.tree.path)
    return plan.container_steps(
        plan.ContainerSpec(
            lowers=(tree,),
            attested=tree,
            workspace=str(kit.context.scratch),
            upper_bytes=spec.limits.memory_bytes // 2,
            hostname=spec.runtime,
            capabilities=options.capabilities,
            no_new_privs=options.no_new_privs,
            joins=kit.layout.joins,
        )
    )


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
    doc = "the harness's own container runtime: namespaces, overlay, cgroup, capabilities"
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
            raise CapabilityError(f"{spec.runtime}: {error}", hint=f"known: {', '.join(plan.CAPABILITIES)}") from error
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

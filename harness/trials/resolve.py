"""From a checked scenario to what backends take: the image reference, the limits, the compiled workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.backends import _warm
from harness.images.resolve import ImageRef
from harness.interfaces import ArmSpec, Driven, Workload
from harness.model.mounts import mount_specs
from harness.model.spec import ImageConfig, MountSpec, RootTree, WorkloadSpec

if TYPE_CHECKING:
    from harness.model.scenario import Runtime, Scenario


def image_ref(scenario: Scenario) -> ImageRef:
    """Return the image as `harness.images.resolve_image` takes it."""
    return ImageRef(scenario.image.kind, scenario.image.value)


def workload_spec(scenario: Scenario, plugin: Workload, config: ImageConfig) -> WorkloadSpec:
    """Return the one workload that every arm runs: the scenario's words over the image's own.

    Raises: UsageError for what cannot be run, such as no command in either.
    """
    return plugin.compile(scenario.workload.options, config)


def mounts(scenario: Scenario, runtime: Runtime, base_dir: Path) -> tuple[MountSpec, ...]:
    """Return what every instance of a runtime mounts, its own or the scenario's; host paths count from `base_dir`."""
    own = runtime.mounts if runtime.mounts is not None else scenario.mounts or ()
    return mount_specs(scenario.volumes or {}, own, base_dir)


def arm_specs(scenario: Scenario, plugin: Workload, tree: RootTree, base_dir: Path) -> dict[str, ArmSpec]:
    """Return what each runtime's backend prepares, by the runtime's name: all from one tree, workload and limits.

    Raises: UsageError like `workload_spec`.
    """
    workload = workload_spec(scenario, plugin, tree.config)
    limits = scenario.limits.limits
    works = {name: _warm.workload_for(runtime.start or "cold", workload) for name, runtime in scenario.runtimes.items()}
    network = scenario.network or (plugin.network if isinstance(plugin, Driven) else None)
    return {
        name: ArmSpec(name, tree, works[name], limits, runtime.network or network, mounts(scenario, runtime, base_dir))
        for name, runtime in scenario.runtimes.items()
    }

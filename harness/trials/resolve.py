"""From a checked scenario to what backends take: the image reference, the limits, the compiled workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.images.resolve import ImageRef
from harness.interfaces import ArmSpec, Workload
from harness.model.spec import ImageConfig, RootTree, WorkloadSpec

if TYPE_CHECKING:
    from harness.model.scenario import Scenario


def image_ref(scenario: Scenario) -> ImageRef:
    """Return the image as `harness.images.resolve_image` takes it."""
    return ImageRef(scenario.image.kind, scenario.image.value)


def workload_spec(scenario: Scenario, plugin: Workload, config: ImageConfig) -> WorkloadSpec:
    """Return the one workload that every arm runs: the scenario's words over the image's own.

    Raises: UsageError for what cannot be run, such as no command in either.
    """
    return plugin.compile(scenario.workload.options, config)


def arm_specs(scenario: Scenario, plugin: Workload, tree: RootTree) -> dict[str, ArmSpec]:
    """Return what each runtime's backend prepares, by the runtime's name: all from one tree, workload and limits.

    Raises: UsageError like `workload_spec`.
    """
    workload = workload_spec(scenario, plugin, tree.config)
    return {
        name: ArmSpec(name, tree, workload, scenario.limits.limits, runtime.network or scenario.network)
        for name, runtime in scenario.runtimes.items()
    }

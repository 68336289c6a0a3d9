"""Scenarios as the command line reads them: checked against all plugins of this installation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import plugins
from harness.model.checking import Known
from harness.model.reading import LoadedScenario, load, load_cells


def known() -> Known:
    """Return what plugins there are; each is imported only when a scenario names it."""
    return Known(
        plugins.OptionModels("backends"),
        plugins.OptionModels("workloads"),
        plugins.names("probes"),
        plugins.OptionModels("studies"),
        plugins.OptionModels("studies", "arm_options"),
        plugins.MetricNames("studies"),
        plugins.MetricNames("workloads"),
        plugins.MetricNames("probes"),
    )


def load_scenario(
    path: Path, overrides: Sequence[str] = (), only: Sequence[str] = (), base_dir: Path | None = None
) -> LoadedScenario:
    """Return the scenario of a file, see `harness.model.reading.load`. Raises: ScenarioError, UsageError."""
    return load(path, known(), overrides=overrides, only=only, base_dir=base_dir)


def load_scenarios(
    path: Path, overrides: Sequence[str] = (), only: Sequence[str] = (), base_dir: Path | None = None
) -> tuple[LoadedScenario, ...]:
    """Return one scenario for each cell of the file's matrix, see `reading.load_cells`. Raises: as there."""
    return load_cells(path, known(), overrides=overrides, only=only, base_dir=base_dir)

"""What `harness plan` gathers and shows: the order, the needs, the time, what is missing."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import plugins
from harness.cli._output import note, print_need
from harness.cli._subject import arm_needs
from harness.errors import HarnessError, StoreError, UsageError
from harness.images.resolve import ImageOutlook, image_outlook
from harness.interfaces import Capability
from harness.model.matrix import label
from harness.model.records import TrialRecord
from harness.model.scenario import AnyScenario, Scenario, StudyScenario, scenario_hash
from harness.model.units import format_bytes, format_ns
from harness.trials import planner, resolve
from harness.trials.planner import Plan

if TYPE_CHECKING:
    from harness.model.reading import LoadedScenario

SHOWN_BLOCKS = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long the whole run may take: `bound` means at most, else about. `basis` says where it comes from."""

    total_ns: int
    bound: bool
    basis: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A run before it is made. `needs` by runtime, and under `image` what the image needs."""

    loaded: LoadedScenario
    plan: Plan
    seed_is_example: bool
    needs: Mapping[str, tuple[Capability, ...]]
    estimate: Estimate
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> list[tuple[str, Capability]]:
        return [(who, need) for who, needs in self.needs.items() for need in needs if not need.available]


def gather(loaded: LoadedScenario, results: Path) -> Preview:
    """Return the preview of a run; nothing is started, built or written."""
    scenario = loaded.scenario
    seed = scenario.trials.seed
    plan = planner.plan(scenario, planner.choose_seed() if seed is None else seed)
    needs, notes = image_and_workload(loaded, scenario) if isinstance(scenario, Scenario) else ({}, ())
    needs |= arm_needs(loaded)
    return Preview(loaded, plan, seed is None, needs, _estimate(loaded, plan, results), (*loaded.notes, *notes))


def image_and_workload(
    loaded: LoadedScenario, scenario: Scenario
) -> tuple[dict[str, tuple[Capability, ...]], tuple[str, ...]]:
    """Return whether image and workload can be had, as far as that can be told without building, and notes on them."""
    from harness.host.paths import data_dir  # noqa: PLC0415
    from harness.images.store import Store  # noqa: PLC0415

    try:
        outlook = image_outlook(resolve.image_ref(scenario), loaded.base_dir, Store(data_dir() / "images"))
    except HarnessError as error:
        return {"image": (Capability("image", available=False, reason=error.message, hint=error.hint),)}, ()
    if outlook.refused:
        refused = (Capability("image", available=False, reason=why.message, hint=why.hint) for why in outlook.refused)
        return {"image": tuple(refused)}, ()
    needs: dict[str, tuple[Capability, ...]]
    needs = {"image": (Capability("image", available=True, reason=outlook.found),)}
    workload, notes = _workload(scenario, outlook)
    if workload is not None:
        needs["workload"] = (workload,)
    return needs, notes


def _workload(scenario: Scenario, outlook: ImageOutlook) -> tuple[Capability | None, tuple[str, ...]]:
    """Return why the workload cannot run on this image, None where nothing speaks against it, and notes."""
    config = outlook.config
    plugin = plugins.try_load("workloads", scenario.workload.kind)
    if config is None or isinstance(plugin, plugins.Unavailable):
        return None, ()
    try:
        spec = resolve.workload_spec(scenario, plugin, config)
    except UsageError as error:
        where = f" ({outlook.user_at})" if outlook.user_at and error.message.startswith("workload.user:") else ""
        return Capability("workload", available=False, reason=error.message + where, hint=error.hint), ()
    exposed = [port for port in config.exposed_ports if port.endswith("/tcp")]
    if not exposed or not spec.ready.port or f"{spec.ready.port}/tcp" in exposed:
        return None, ()
    return None, (f"workload: ready is asked on port {spec.ready.port}, but the image exposes {', '.join(exposed)}",)


def _estimate(loaded: LoadedScenario, plan: Plan, results: Path) -> Estimate:
    """Return the time of the longest run that the plan allows."""
    medians, run_id = _former_medians(loaded, results)
    if medians and all(name in medians for name, _ in plan.runtimes):
        block_ns = sum(medians[name] for name, _ in plan.runtimes)
        return Estimate(round(block_ns * plan.block_count), bound=False, basis=f"medians of the former run {run_id}")
    scenario, count = loaded.scenario, len(plan.trials)
    if isinstance(scenario, StudyScenario):
        return Estimate(0, bound=True, basis=f"no former run of this study was found in {results}")
    if scenario.density is not None:
        count *= scenario.density.counts[-1]
    what = "starts" if scenario.density is not None else "trials"
    timeout_ns = getattr(scenario.workload.options, "timeout_ns", None)
    if timeout_ns is None:
        return Estimate(0, bound=True, basis="this kind of workload has no time-out and no former run was found")
    return Estimate(
        timeout_ns * count, bound=True,
        basis=f"{count} {what} that may each take {format_ns(timeout_ns)} to be ready; no former run in {results}",
    )  # fmt: skip


def _former_medians(loaded: LoadedScenario, results: Path) -> tuple[dict[str, float], str]:
    """Return the median time of a trial by runtime, in ns, from the newest run of the same scenario; or nothing."""
    from harness.results.store import RunDirectory, list_runs  # noqa: PLC0415

    wanted = scenario_hash(loaded.resolved())
    for path in reversed(list_runs(results)):
        try:
            directory = RunDirectory.open(path)
            record, trials = directory.run(), directory.trials()
        except StoreError:
            continue
        if record.scenario_hash == wanted and trials:
            return trial_medians_ns(trials), record.run_id
    return {}, ""


def trial_medians_ns(trials: Sequence[TrialRecord]) -> dict[str, float]:
    """Return the median time from a trial's start to the next one's, in ns, by runtime: what it costs in all."""
    took: dict[str, list[float]] = {}
    for trial, following in itertools.pairwise(trials):
        seconds = (datetime.fromisoformat(following.started) - datetime.fromisoformat(trial.started)).total_seconds()
        took.setdefault(trial.spec.runtime, []).append(seconds * 1e9)
    return {runtime: statistics.median(values) for runtime, values in took.items()}


def show_plans(previews: Sequence[Preview]) -> None:
    """Write the cells of a matrix, and the preview of the first; what another one lacks besides is told too."""
    click.echo(f"matrix: {len(previews)} cells, a run each, one after the other")
    for number, preview in enumerate(previews, 1):
        click.echo(f"  {number}  {label(preview.loaded.cell)}: {_time_line(preview.estimate)}")
    click.echo()
    show_plan(previews[0])
    told = {(who, need) for who, need in previews[0].missing}
    for number, preview in enumerate(previews[1:], 2):
        for who, need in preview.missing:
            if (who, need) not in told:
                click.echo(f"error: cell {number}: {who}: {need.name}: {need.reason}", err=True)
                told.add((who, need))


def plans_json(previews: Sequence[Preview]) -> dict[str, Any]:
    """Return the previews of a matrix as one document."""
    cells = [{"cell": dict(preview.loaded.cell), "plan": plan_json(preview)} for preview in previews]
    return {"schema": "harness.plan-matrix/1", "cells": cells}


def show_plan(preview: Preview) -> None:
    """Write a preview for people."""
    plan, scenario = preview.plan, preview.loaded.scenario
    blocks = str(plan.min_blocks) if plan.min_blocks == plan.max_blocks else f"{plan.min_blocks} to {plan.max_blocks}"
    click.echo(
        f"{plan.scenario}: {len(plan.runtimes)} {scenario.ARMS} x {blocks} blocks,"
        f" {plan.warmup_blocks} before to warm up"
    )
    click.echo(f"  control   {plan.control}")
    for name, text in _measured_lines(scenario):
        click.echo(f"  {name:<9} {text}")
    click.echo(f"  time      {_time_line(preview.estimate)}")
    example = " (an example: without a seed in the scenario every run draws its own)" if preview.seed_is_example else ""
    click.echo(f"\norder, seed {plan.seed}{example}")
    for block in range(min(plan.block_count, SHOWN_BLOCKS)):
        trials = plan.block_trials(block)
        click.echo(f"  {trials[0].trial_id.partition('-')[0]}  {'  '.join(trial.runtime for trial in trials)}")
    if plan.block_count > SHOWN_BLOCKS:
        click.echo(f"  ... {plan.block_count - SHOWN_BLOCKS} more blocks (--json shows all)")
    click.echo("\nneeds")
    for who, needs in preview.needs.items():
        for need in needs:
            print_need(need, who=who, indent=2)
    for text in preview.notes:
        note(text)
    if preview.missing:
        count = len(preview.missing)
        are = "prerequisite is" if count == 1 else "prerequisites are"
        click.echo(f"error: {count} {are} missing: nothing can be measured yet", err=True)


def _measured_lines(scenario: AnyScenario) -> list[tuple[str, str]]:
    """Return under which limits what is measured, or which study it is."""
    if isinstance(scenario, Scenario):
        limits = scenario.limits
        size = format_bytes(limits.memory_bytes)
        return [
            ("limits", f"{limits.cpus:g} CPU, {size}, {limits.pids} processes"),
            ("metrics", ", ".join(scenario.metrics)),
            *([("instances", ", ".join(map(str, scenario.density.counts)))] if scenario.density else []),
        ]
    plugin = plugins.try_load("studies", scenario.study.kind)
    doc = f"{scenario.study.kind}: {getattr(plugin, 'doc', 'cannot be loaded here')}"
    return [("study", doc), ("metrics", ", ".join(metric.name for metric in getattr(plugin, "metrics", ())))]


def _time_line(estimate: Estimate) -> str:
    if not estimate.total_ns:
        return f"unknown: {estimate.basis}"
    seconds = round(estimate.total_ns / 1e9)
    time = f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else format_ns(estimate.total_ns)
    return f"{'at most' if estimate.bound else 'about'} {time}: {estimate.basis}"


def plan_json(preview: Preview) -> dict[str, Any]:
    """Return a preview as one document."""
    plan, estimate = preview.plan, preview.estimate
    return {
        "schema": "harness.plan/1",
        "scenario": preview.loaded.resolved(),
        "scenario_hash": scenario_hash(preview.loaded.resolved()),
        "seed": plan.seed,
        "seed_is_example": preview.seed_is_example,
        "control": plan.control,
        "blocks": {"warmup": plan.warmup_blocks, "min": plan.min_blocks, "max": plan.max_blocks},
        "trials": [
            {"trial_id": t.trial_id, "block": t.block, "order": t.order, "runtime": t.runtime, "backend": t.backend,
             "warmup": t.warmup}
            for t in plan.trials
        ],
        "needs": {who: [capability_json(need) for need in needs] for who, needs in preview.needs.items()},
        "estimate": {"total_ns": estimate.total_ns or None, "is_upper_bound": estimate.bound, "basis": estimate.basis},
        "missing": [f"{who}: {need.name}: {need.reason}" for who, need in preview.missing],
        "notes": list(preview.notes),
    }  # fmt: skip


def capability_json(need: Capability) -> dict[str, Any]:
    return {"name": need.name, "available": need.available, "reason": need.reason, "hint": need.hint}

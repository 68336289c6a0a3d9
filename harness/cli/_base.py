"""A run with a base revision: the runtimes of a scenario as they were then, in the same blocks as those of now."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.cli._known import load_scenario
from harness.cli._subject import Prepared, Subject
from harness.errors import UsageError
from harness.interfaces import Backend, RunContext
from harness.model.metrics import Metric
from harness.model.reading import LoadedScenario
from harness.model.records import base_name
from harness.model.scenario import scenario_hash
from harness.trials.revision import BaseTree


def at_base(base: BaseTree, now: LoadedScenario) -> LoadedScenario:
    """Return the scenario as it was at the base, with those runtimes alone that there are now, under their base names.

    Raises: ScenarioError; UsageError where it has none of them.
    """
    then = load_scenario(base.scenario, now.overrides)
    scenario, key = then.scenario, then.scenario.ARMS
    if key != now.scenario.ARMS:
        raise UsageError(f"--base: {base.scenario.name}: at {base.revision} it has {key}, now {now.scenario.ARMS}")
    arms = {
        base_name(name): getattr(scenario, key)[name] for name in now.scenario.contenders if name in scenario.contenders
    }
    if not arms:
        raise UsageError(f"--base: {base.scenario.name}: at {base.revision} it has none of the {key} that are measured")
    control = base_name(now.scenario.control)
    renamed = scenario.model_copy(update={key: arms, "control": control if control in arms else next(iter(arms))})
    return replace(then, scenario=renamed)


def dropped(now: LoadedScenario, then: LoadedScenario) -> tuple[str, ...]:
    """Return a note for each runtime that the base has not: there is nothing to compare it with."""
    missing = [name for name in now.scenario.contenders if base_name(name) not in then.scenario.contenders]
    return tuple(f"{name}: is not in the base revision, and is compared with the control alone" for name in missing)


def base_facts(base: BaseTree, then: LoadedScenario, subject: Revisions) -> dict[str, Any]:
    """Return what run.json says of the base (`RunRecord.base`)."""
    return {
        "revision": base.revision,
        "commit": base.commit,
        "scenario": base.scenario.name,
        "scenario_hash": scenario_hash(then.resolved()),
        "root_digest": subject.then.image.get("root_digest"),
    }


@dataclass(frozen=True)
class Revisions:
    """What a run with a base is about: the runtimes of `now` and those of `then`, each with its own image."""

    now: Subject
    then: Subject
    then_dir: Path

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple({backend.name: backend for backend in (*self.now.backends, *self.then.backends)}.values())

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured now, then what only the base measured."""
        own = {metric.name for metric in self.now.metrics}
        return (*self.now.metrics, *(metric for metric in self.then.metrics if metric.name not in own))

    @property
    def stop_metrics(self) -> tuple[str, ...]:
        return self.now.stop_metrics

    @property
    def image(self) -> Mapping[str, Any]:
        return self.now.image

    @property
    def reported(self) -> str:
        return self.now.reported

    @property
    def study(self) -> Mapping[str, Any]:
        return self.now.study

    def prepare(self, context: RunContext, cleanup: contextlib.ExitStack) -> Prepared:
        """Prepare the arms of both; host paths of each count from its own copy of the project."""
        ours = self.now.prepare(context, cleanup)
        theirs = self.then.prepare(replace(context, base_dir=self.then_dir), cleanup)
        return Prepared({**ours.contenders, **theirs.contenders}, {**ours.facts, **theirs.facts})

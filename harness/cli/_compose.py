"""From a scenario file to everything that a run needs: plugins, image, workload, plan, prepared arms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.cli._base import Revisions, at_base, base_facts, dropped
from harness.cli._known import load_scenario
from harness.cli._subject import Prepared, Subject, subject
from harness.errors import StoreError
from harness.host.facts import host_class, host_facts
from harness.host.paths import cache_dir
from harness.interfaces import RunContext
from harness.model.reading import LoadedScenario
from harness.model.records import RunRecord
from harness.model.scenario import scenario_hash
from harness.results.store import RunDirectory, new_run_id
from harness.trials import planner
from harness.trials.revision import BaseTree


@dataclass(frozen=True, slots=True)
class Composition:
    """A run before its first trial. `token` is the part of the run id that everything it creates carries.

    `base` is what run.json says of the base revision, empty without one.
    """

    loaded: LoadedScenario
    plan: planner.Plan
    run_id: str
    token: str
    started: str
    subject: Subject
    base: Mapping[str, Any] = field(default_factory=dict)
    matrix: Mapping[str, Any] = field(default_factory=dict)


def compose(
    loaded: LoadedScenario,
    *,
    former: RunDirectory | None = None,
    base: BaseTree | None = None,
    matrix: Mapping[str, Any] | None = None,
) -> Composition:
    """Resolve a scenario; with `former`, that of an interrupted run, which goes on with its own seed, id and image.

    With `base`, the scenario's runtimes as they were at a revision run in the same blocks. `matrix` is what the record
    says of a new run that is a cell; without a `series` it is the first.

    Raises: UsageError, CapabilityError, BuildError; StoreError where `former` cannot go on.
    """
    if former is not None:
        _refuse_changed(former.run(), loaded)
    about = subject(loaded, former)
    seed, run_id, started = _identity(loaded, former)
    theirs = None if base is None else at_base(base, loaded)
    facts: dict[str, Any] = {}
    if theirs is not None and base is not None:
        based = Revisions(about, subject(theirs, None), theirs.base_dir)
        about, facts = based, base_facts(base, theirs, based)
        loaded = replace(loaded, notes=(*loaded.notes, *base.notes, *dropped(loaded, theirs)))
    if former is not None:
        _refuse_other_base(former.run(), facts)
    return Composition(
        loaded=loaded,
        plan=planner.plan(loaded.scenario, seed, None if theirs is None else theirs.scenario.contenders),
        run_id=run_id,
        token=secrets.token_hex(4),
        started=started,
        subject=about,
        base=facts,
        matrix={"series": run_id, **matrix} if matrix else {} if former is None else former.run().matrix,
    )


def former_scenario(former: RunDirectory) -> LoadedScenario:
    """Return the scenario that an interrupted run goes on with. Raises: ScenarioError, UsageError."""
    return load_scenario(former.scenario_path(), former.overrides(), former.only(), former.base_dir())


def _refuse_other_base(former: RunRecord, facts: Mapping[str, Any]) -> None:
    """Blocks of one run must be of one base: the same scenario there, and the same image."""
    for key in ("scenario_hash", "root_digest"):
        if former.base.get(key) != facts.get(key):
            message = f"{former.run_id}: base: {key}: was {former.base.get(key)} and is now {facts.get(key)}"
            raise StoreError(message, hint="the base is read in another way than when the run began: start a new run")


def _refuse_changed(former: RunRecord, loaded: LoadedScenario) -> None:
    """A run goes on with the scenario that its directory holds: that one must be as it was."""
    if scenario_hash(loaded.resolved()) != former.scenario_hash:
        message = f"{former.run_id}: scenario: {loaded.path} is not what the run began with"
        raise StoreError(message, hint="it was edited, or this harness reads it in another way: start a new run")


def _identity(loaded: LoadedScenario, former: RunDirectory | None) -> tuple[int, str, str]:
    """Return the seed, the run id and the time of its start: a resumed run keeps its own."""
    if former is not None:
        run = former.run()
        return run.seed, run.run_id, run.started
    name, seed = loaded.scenario.name, loaded.scenario.trials.seed
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return planner.choose_seed() if seed is None else seed, new_run_id(name, secrets.token_hex(4)), started


SAME_ON_RESUME = (
    "accelerator", "machine", "qemu", "libvirt", "kernel_digest", "agent_sha256", "launcher_sha256", "cgroup_mode",
    "host_class",
)  # fmt: skip
"""Facts of a runtime that change what is measured: the blocks of one run must not differ in them.

All facts of a study's arm are such facts.
"""


def refuse_other_ground(former: RunRecord, now: RunRecord) -> None:
    """Refuse to add blocks that were measured on another host or with other tools. Raises: StoreError.

    A host that was booted again, or with a new patch of the same kernel series, is the same host.
    """
    pairs = [("host", former.host.get("class"), now.host.get("class"))]
    pairs += [("harness", former.tools.get("harness"), now.tools.get("harness"))]
    for name, arm in now.arms.items():
        before = former.arms.get(name, {})
        facts = arm if now.study else SAME_ON_RESUME
        pairs += [(f"{name}: {fact}", before.get(fact), arm.get(fact)) for fact in facts]
    _refuse_changes(former.run_id, pairs, "blocks of one run must be comparable: start a new run")


def refuse_other_series(first: RunRecord, composition: Composition) -> None:
    """Refuse to measure a cell on another host, with another harness or image than the first. Raises: StoreError."""
    pairs: list[tuple[str, object, object]] = [
        ("host", first.host.get("class"), host_class(host_facts())),
        ("harness", first.tools.get("harness"), __version__),
    ]
    if not any(key.partition(".")[0] in {"image", "study"} for key in first.matrix["cell"]):
        digest = composition.subject.image.get("root_digest")
        pairs.append(("image", first.image.get("root_digest"), digest))
    _refuse_changes(first.run_id, pairs, "cells of one matrix must be comparable: start a new run")


def _refuse_changes(run_id: str, pairs: Sequence[tuple[str, object, object]], hint: str) -> None:
    changed = [f"{what}: was {before} and is now {after}" for what, before, after in pairs if before != after]
    if changed:
        raise StoreError(f"{run_id}: {'; '.join(changed)}", hint=hint)


def prepare_arms(
    composition: Composition, scratch: Path, cleanup: contextlib.ExitStack, say: Callable[[str], None]
) -> Prepared:
    """Prepare every arm; what was prepared is closed by `cleanup`, also when a later one fails."""
    base_dir = composition.loaded.base_dir
    context = RunContext(composition.run_id, composition.token, scratch, cache_dir(), say, base_dir)
    return composition.subject.prepare(context, cleanup)


def run_record(composition: Composition, prepared: Prepared) -> RunRecord:
    """Return run.json as it stands before the first trial."""
    facts: dict[str, Any] = host_facts()
    facts["class"] = host_class(facts)
    about = composition.subject
    return RunRecord(
        run_id=composition.run_id,
        scenario=composition.loaded.scenario.name,
        scenario_hash=scenario_hash(composition.loaded.resolved()),
        status="running",
        started=composition.started,
        seed=composition.plan.seed,
        control=composition.plan.control,
        runtimes=tuple(prepared.contenders),
        image=about.image,
        host=facts,
        arms={name: dict(facts) for name, facts in prepared.facts.items()},
        metrics={
            metric.name: {
                "unit": metric.unit.value,
                "better": metric.better.value,
                "assume": metric.assume.value,
                "doc": metric.doc,
            }
            for metric in about.metrics
        },
        tools={"harness": __version__},
        warnings=composition.loaded.notes,
        study=about.study,
        reported=about.reported,
        base=composition.base,
        matrix=composition.matrix,
    )

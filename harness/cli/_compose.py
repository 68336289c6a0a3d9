"""From a scenario file to everything that a run needs: plugins, image, workload, plan, prepared arms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__, plugins
from harness.cli._known import load_scenario
from harness.errors import CapabilityError
from harness.host.facts import host_class, host_facts
from harness.host.paths import cache_dir, data_dir
from harness.images.resolve import resolve_image
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, Backend, Probe, RunContext
from harness.model.reading import LoadedScenario
from harness.model.records import RunRecord
from harness.model.scenario import scenario_hash
from harness.model.spec import RootTree
from harness.results.store import RunDirectory, new_run_id
from harness.trials import planner, resolve


@dataclass(frozen=True, slots=True)
class Composition:
    """A run before its first trial. `token` is the part of the run id that everything it creates carries."""

    loaded: LoadedScenario
    plan: planner.Plan
    run_id: str
    token: str
    started: str
    tree: RootTree
    store: Store  # open for as long as the run: it keeps the tree from being removed
    specs: Mapping[str, ArmSpec]
    timeout_ns: int
    backends: tuple[Backend, ...]
    probes: tuple[Probe, ...]


def check_needs(loaded: LoadedScenario, backends: Mapping[str, Backend]) -> None:
    """Raise one CapabilityError that names all that is missing, so that nothing has to be found out one by one."""
    missing = []
    hints = []
    for name, runtime in loaded.scenario.runtimes.items():
        for need in backends[runtime.backend].needs(runtime.options):
            if not need.available:
                missing.append(f"{name}: {need.name}: {need.reason}")
                hints.append(need.hint)
    if missing:
        hint = next((hint for hint in hints if hint), "harness doctor shows what works here")
        raise CapabilityError("\n".join(dict.fromkeys(missing)), hint=hint)


def compose(
    path: Path,
    *,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    former: RunDirectory | None = None,
) -> Composition:
    """Load, check and resolve; with `former`, an interrupted run is taken up with its own seed, id and image.

    Raises: ScenarioError, UsageError, CapabilityError, BuildError.
    """
    if former is not None:
        overrides, only = former.overrides(), former.only()
    loaded = load_scenario(path, overrides, only)
    scenario = loaded.scenario
    backends = {name: plugins.load("backends", name) for name in dict.fromkeys(r.backend for r in scenario.runtimes.values())}
    check_needs(loaded, backends)
    base_dir = loaded.base_dir if former is None else former.base_dir()
    store = Store(data_dir() / "images")
    tree = resolve_image(resolve.image_ref(scenario), base_dir, store)
    if former is not None:
        former.check_same_image(tree.digest)
    workload = plugins.load("workloads", scenario.workload.kind)
    specs = resolve.arm_specs(scenario, workload, tree)
    seed = former.run().seed if former is not None else scenario.trials.seed
    run_id = former.run().run_id if former is not None else new_run_id(scenario.name, secrets.token_hex(4))
    any_spec = next(iter(specs.values()))
    return Composition(
        loaded=loaded,
        plan=planner.plan(scenario, planner.choose_seed() if seed is None else seed),
        run_id=run_id,
        token=secrets.token_hex(4),
        started=former.run().started if former is not None else datetime.now(UTC).isoformat(timespec="seconds"),
        tree=tree,
        store=store,
        specs=specs,
        timeout_ns=resolve.trial_timeout_ns(scenario, any_spec.workload),
        backends=tuple(backends.values()),
        probes=tuple(plugins.load("probes", name) for name in scenario.metrics),
    )


def prepare_arms(composition: Composition, scratch: Path, cleanup: contextlib.ExitStack) -> dict[str, Arm]:
    """Prepare every runtime; what was prepared is closed by `cleanup`, also when a later one fails."""
    context = RunContext(composition.run_id, composition.token, scratch, cache_dir())
    arms: dict[str, Arm] = {}
    by_name = {backend.name: backend for backend in composition.backends}
    for name, runtime in composition.loaded.scenario.runtimes.items():
        arm = by_name[runtime.backend].prepare(composition.specs[name], runtime.options, context)
        cleanup.callback(arm.close)
        arms[name] = arm
    return arms


def run_record(composition: Composition, arms: Mapping[str, Arm]) -> RunRecord:
    """Return run.json as it stands before the first trial."""
    facts: dict[str, Any] = host_facts()
    facts["class"] = host_class(facts)
    tree = composition.tree
    return RunRecord(
        run_id=composition.run_id,
        scenario=composition.loaded.scenario.name,
        scenario_hash=scenario_hash(composition.loaded.resolved()),
        status="running",
        started=composition.started,
        seed=composition.plan.seed,
        control=composition.plan.control,
        runtimes=tuple(arms),
        image={"reference": tree.reference, "root_digest": tree.digest, "size_bytes": tree.size_bytes},
        host=facts,
        arms={name: dict(arm.facts) for name, arm in arms.items()},
        metrics={
            metric.name: {
                "unit": metric.unit.value,
                "better": metric.better.value,
                "assume": metric.assume.value,
                "doc": metric.doc,
            }
            for probe in composition.probes
            for metric in probe.metrics
        },
        tools={"harness": __version__},
        warnings=composition.loaded.notes,
    )

"""From a scenario file to everything that a run needs: plugins, image, workload, plan, prepared arms."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__, plugins
from harness.cli._known import load_scenario
from harness.errors import CapabilityError, ImageError, StoreError
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
from harness.trials.reported import probes_with


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
        hint = "; ".join(dict.fromkeys(filter(None, hints))) or "harness doctor shows what works here"
        raise CapabilityError("\n".join(dict.fromkeys(missing)), hint=hint)


def compose(
    path: Path,
    *,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    former: RunDirectory | None = None,
) -> Composition:
    """Load, check and resolve; with `former`, an interrupted run is taken up with its own seed, id and image.

    Raises: ScenarioError, UsageError, CapabilityError, BuildError; StoreError where `former` cannot go on.
    """
    if former is None:
        loaded = load_scenario(path, overrides, only)
    else:
        loaded = load_scenario(path, former.overrides(), former.only(), former.base_dir())
        _refuse_changed(former.run(), loaded)
    scenario = loaded.scenario
    names = dict.fromkeys(runtime.backend for runtime in scenario.runtimes.values())
    backends = {name: plugins.load("backends", name) for name in names}
    check_needs(loaded, backends)
    store = Store(data_dir() / "images")
    tree = _tree(loaded, store)
    if former is not None:
        former.check_same_image(tree.digest)
    workload = plugins.load("workloads", scenario.workload.kind)
    specs = resolve.arm_specs(scenario, workload, tree, loaded.base_dir)
    seed, run_id, started = _identity(loaded, former)
    return Composition(
        loaded=loaded,
        plan=planner.plan(scenario, seed),
        run_id=run_id,
        token=secrets.token_hex(4),
        started=started,
        tree=tree,
        store=store,
        specs=specs,
        timeout_ns=next(iter(specs.values())).workload.timeout_ns,
        backends=tuple(backends.values()),
        probes=probes_with(workload, tuple(plugins.load("probes", name) for name in scenario.metrics)),
    )


def _refuse_changed(former: RunRecord, loaded: LoadedScenario) -> None:
    """A run goes on with the scenario that its directory holds: that one must be as it was."""
    if scenario_hash(loaded.resolved()) != former.scenario_hash:
        message = f"{former.run_id}: scenario: {loaded.path} is not what the run began with"
        raise StoreError(message, hint="it was edited, or this harness reads it in another way: start a new run")


def _tree(loaded: LoadedScenario, store: Store) -> RootTree:
    reference = resolve.image_ref(loaded.scenario)
    try:
        return resolve_image(reference, loaded.base_dir, store)
    except ImageError as error:
        if error.hint is None and reference.kind in {"build", "layout", "rootfs"}:
            error.hint = "paths in a scenario count from the directory of its file"
        raise


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
)  # fmt: skip
"""Facts of an arm that change what is measured: the blocks of one run must not differ in them."""


def refuse_other_ground(former: RunRecord, now: RunRecord) -> None:
    """Refuse to add blocks that were measured on another host or with other tools. Raises: StoreError.

    A host that was booted again, or with a new patch of the same kernel series, is the same host.
    """
    pairs = [("host", former.host.get("class"), now.host.get("class"))]
    pairs += [("harness", former.tools.get("harness"), now.tools.get("harness"))]
    for name, arm in now.arms.items():
        before = former.arms.get(name, {})
        pairs += [(f"{name}: {fact}", before.get(fact), arm.get(fact)) for fact in SAME_ON_RESUME]
    changed = [f"{what}: was {before} and is now {after}" for what, before, after in pairs if before != after]
    if changed:
        message = f"{former.run_id}: {'; '.join(changed)}"
        raise StoreError(message, hint="blocks of one run must be comparable: start a new run")


def prepare_arms(
    composition: Composition, scratch: Path, cleanup: contextlib.ExitStack, say: Callable[[str], None]
) -> dict[str, Arm]:
    """Prepare every runtime; what was prepared is closed by `cleanup`, also when a later one fails."""
    context = RunContext(composition.run_id, composition.token, scratch, cache_dir(), say)
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

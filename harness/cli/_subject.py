"""What a run is about: runtimes that start one image, or a study. The only place that tells the two apart.

Everything before (planning, resuming) and after (the loop, records, reports) is the same for both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness import plugins
from harness.analysis import density
from harness.backends import _warm
from harness.backends._remote import Remote, elsewhere
from harness.cli._output import note
from harness.errors import CapabilityError, ImageError
from harness.host.paths import data_dir
from harness.images.resolve import resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, Backend, Capability, Json, Probe, RunContext
from harness.interfaces import Study as StudyPlugin
from harness.model.metrics import Metric
from harness.model.reading import LoadedScenario
from harness.model.records import READY_METRIC
from harness.model.scenario import Scenario, StudyScenario
from harness.model.spec import MountSpec, RootTree
from harness.results.store import RunDirectory
from harness.trials import resolve
from harness.trials.density import RampContender
from harness.trials.remote import Order, RemoteContender
from harness.trials.reported import probes_with, within
from harness.trials.runner import Contender
from harness.trials.study import StudyContender
from harness.trials.trial import RuntimeContender


@dataclass(frozen=True, slots=True)
class Prepared:
    """The arms of a run, ready for trials, and what run.json says of each."""

    contenders: Mapping[str, Contender]
    facts: Mapping[str, Mapping[str, Json]]


class Subject(Protocol):
    """What a run is about. `backends` find by its token what it leaves if it dies; `image`, `study` and `reported` are
    for run.json.
    """

    @property
    def backends(self) -> tuple[Backend, ...]: ...
    @property
    def metrics(self) -> tuple[Metric, ...]: ...
    @property
    def stop_metrics(self) -> tuple[str, ...]:
        """The metrics that decide when enough is known, where the scenario's gate names none."""
        ...

    @property
    def image(self) -> Mapping[str, Any]: ...
    @property
    def reported(self) -> str: ...
    @property
    def study(self) -> Mapping[str, Any]: ...
    def prepare(self, context: RunContext, cleanup: contextlib.ExitStack) -> Prepared:
        """Prepare every arm; what was prepared is closed by `cleanup`, also when a later one fails."""
        ...


def subject(loaded: LoadedScenario, former: RunDirectory | None) -> Subject:
    """Return what a scenario is about, all that it needs checked. `former`: the run that is taken up.

    Raises: UsageError, CapabilityError that names all that is missing, BuildError, StoreError for another image.
    """
    scenario = loaded.scenario
    if isinstance(scenario, StudyScenario):
        plugin: StudyPlugin = plugins.load("studies", scenario.study.kind)
        _refuse_missing(arm_needs(loaded))
        backends = (plugins.try_load("backends", name) for name in plugin.backends)
        here = tuple(backend for backend in backends if not isinstance(backend, plugins.Unavailable))
        return _StudySubject(scenario, plugin, here)
    return _runtimes(loaded, scenario, former)


def arm_needs(loaded: LoadedScenario) -> dict[str, tuple[Capability, ...]]:
    """Return what each arm needs here, by its name; one line that says why where its plugin cannot even be loaded."""
    scenario = loaded.scenario
    if isinstance(scenario, Scenario):
        return {
            name: (
                *backend_needs(runtime.backend, runtime.options, resolve.mounts(scenario, runtime, loaded.base_dir)),
                *_warm.needs(runtime.start or "cold", runtime.backend, runtime.options),
            )
            for name, runtime in scenario.runtimes.items()
        }
    plugin = plugins.try_load("studies", scenario.study.kind)
    if isinstance(plugin, plugins.Unavailable):
        return dict.fromkeys(scenario.arms, _unavailable("study", plugin))
    return {name: tuple(plugin.needs(scenario.study.options, arm.options)) for name, arm in scenario.arms.items()}


def backend_needs(name: str, options: Any, mounts: Sequence[MountSpec] = ()) -> tuple[Capability, ...]:
    """Return what a backend needs here; one line that says why where it cannot even be loaded."""
    backend = plugins.try_load("backends", name)
    if isinstance(backend, plugins.Unavailable):
        return _unavailable("backend", backend)
    return (*backend.needs(options), *(backend.mount_needs(options, mounts) if mounts else ()))


def _unavailable(what: str, plugin: plugins.Unavailable) -> tuple[Capability, ...]:
    return (Capability(what, available=False, reason=f"cannot be loaded: {plugin.reason}"),)


def _refuse_missing(needs: Mapping[str, Sequence[Capability]]) -> None:
    """Raise one CapabilityError that names all that is missing, so that nothing has to be found out one by one."""
    missing = [(f"{name}: {need.name}: {need.reason}", need.hint) for name, own in needs.items() for need in own
               if not need.available]  # fmt: skip
    if missing:
        hint = "; ".join(dict.fromkeys(hint for _, hint in missing if hint)) or "harness doctor shows what works here"
        raise CapabilityError("\n".join(dict.fromkeys(text for text, _ in missing)), hint=hint)


@dataclass(frozen=True)
class _RuntimesSubject:
    """Runtimes that all start one image. `store`, open as long as the run, keeps the tree from being removed."""

    loaded: LoadedScenario
    scenario: Scenario
    backends: tuple[Backend, ...]
    probes: tuple[Probe, ...]
    tree: RootTree
    store: Store
    specs: Mapping[str, ArmSpec]
    reported: str

    @property
    def stop_metrics(self) -> tuple[str, ...]:
        if self.scenario.density is not None:
            return (density.MARGINAL.name,)
        return (self.reported or READY_METRIC,)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        if self.scenario.density is not None:
            return density.TRIAL_METRICS
        return tuple(metric for probe in self.probes for metric in probe.metrics)

    @property
    def image(self) -> Mapping[str, Any]:
        tree = self.tree
        return {"reference": tree.reference, "root_digest": tree.digest, "size_bytes": tree.size_bytes}

    @property
    def study(self) -> Mapping[str, Any]:
        return {}

    def prepare(self, context: RunContext, cleanup: contextlib.ExitStack) -> Prepared:
        by_name = {backend.name: backend for backend in self.backends}
        probes = within(self.probes, context.token)
        contenders: dict[str, Contender] = {}
        facts: dict[str, Mapping[str, Json]] = {}
        for name, runtime in self.scenario.runtimes.items():
            spec = self.specs[name]
            remote = elsewhere(runtime.options)
            if remote is not None:
                contenders[name], facts[name] = self._prepare_elsewhere(name, remote, context, cleanup)
                continue
            made = by_name[runtime.backend].prepare(spec, runtime.options, context)
            cleanup.callback(made.close)
            arm = cleanup.enter_context(
                _warm.prepared(made, runtime.start or "cold", name, spec.workload.timeout_ns, context)
            )
            timeout_ns, ramp = spec.workload.timeout_ns, self.scenario.density
            contenders[name] = (
                RampContender(arm, ramp, timeout_ns) if ramp else RuntimeContender(arm, probes, timeout_ns)
            )
            facts[name] = arm.facts
        return Prepared(contenders, facts)

    def _prepare_elsewhere(
        self, name: str, remote: Remote, context: RunContext, cleanup: contextlib.ExitStack
    ) -> tuple[Contender, Mapping[str, Json]]:
        """Have a runtime prepared on another host, where all its trials are made."""
        timeout_ns = self.specs[name].workload.timeout_ns
        order = Order(
            self.loaded, name, self.scenario.runtimes[name].backend, self.tree, self.store, self.metrics, timeout_ns
        )
        contender = RemoteContender(remote, order, context)
        cleanup.push(contender.end)
        contender.prepare()
        return contender, contender.facts


def _runtimes(loaded: LoadedScenario, scenario: Scenario, former: RunDirectory | None) -> Subject:
    names = dict.fromkeys(runtime.backend for runtime in scenario.runtimes.values())
    backends = tuple(plugins.load("backends", name) for name in names)
    _refuse_missing(arm_needs(loaded))
    store = Store(data_dir() / "images")
    tree = _tree(loaded, scenario, store)
    if former is not None:
        former.check_same_image(tree.digest)
    workload = plugins.load("workloads", scenario.workload.kind)
    families = tuple(plugins.load("probes", name) for name in scenario.metrics if not scenario.density)
    probes = probes_with(workload, families, scenario.workload.options, tree)
    specs = resolve.arm_specs(scenario, workload, tree, loaded.base_dir)
    reported = workload.metrics[0].name if workload.metrics else ""
    if scenario.density is not None:
        reported = density.MARGINAL.name
    return _RuntimesSubject(loaded, scenario, backends, probes, tree, store, specs, reported)


def _tree(loaded: LoadedScenario, scenario: Scenario, store: Store) -> RootTree:
    reference = resolve.image_ref(scenario)
    try:
        if reference.kind == "oci":  # a pull takes its time
            return resolve_image(reference, loaded.base_dir, store, log=note)
        return resolve_image(reference, loaded.base_dir, store)
    except ImageError as error:
        if error.hint is None and reference.kind in {"build", "layout", "rootfs"}:
            error.hint = "paths in a scenario count from the directory of its file"
        raise


@dataclass(frozen=True)
class _StudySubject:
    scenario: StudyScenario
    plugin: StudyPlugin
    backends: tuple[Backend, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.plugin.metrics

    @property
    def stop_metrics(self) -> tuple[str, ...]:
        return (self.plugin.metrics[0].name,)

    @property
    def image(self) -> Mapping[str, Any]:
        return {}

    @property
    def reported(self) -> str:
        return ""

    @property
    def study(self) -> Mapping[str, Any]:
        options = self.scenario.study.options.model_dump(mode="json", exclude_none=True)
        return {"kind": self.plugin.name, "doc": self.plugin.doc, "options": options}

    def prepare(self, context: RunContext, cleanup: contextlib.ExitStack) -> Prepared:
        contenders, facts = {}, {}
        for name, section in self.scenario.arms.items():
            arm = self.plugin.prepare(name, self.scenario.study.options, section.options, context)
            cleanup.callback(arm.close)
            contenders[name] = StudyContender(arm, self.plugin.metrics, self.plugin.disturbs)
            facts[name] = arm.facts
        return Prepared(contenders, facts)

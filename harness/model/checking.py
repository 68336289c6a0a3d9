"""A scenario's document against its models: every mistake in it at once, or the Scenario.

The options of plugins are checked by the plugins' own models, which the caller passes in: the model imports no plugin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from harness.errors import Problem, ScenarioError
from harness.model.complaints import problems as complaints
from harness.model.document import Document, Loc, did_you_mean, nearest
from harness.model.scenario import SCHEMA, AnyScenario, Blocks, Scenario, StudyScenario

OptionModels = Mapping[str, type[BaseModel] | None]

DENSITY_FAMILIES = ("memory", "cpu", "density")
"""Where a run of many instances has its metrics: `memory.marginal`, `cpu.marginal`, `density.instances`."""
_BESIDE = {"kind": {"kind"}, "backend": {"backend", "network", "start", "mounts"}}
"""Which keys beside a plugin's options are not the plugin's own, by its selector."""


@dataclass(frozen=True, slots=True)
class Known:
    """What plugins there are. A model is None where the plugin exists but cannot be loaded here.

    A study has a model for itself, one for its arms, and the names of its metrics; a workload may have metrics too.
    `family_metrics` names those of each family: a few begin with another word (`stop.deleted` is of `startup`).
    """

    backends: OptionModels
    workloads: OptionModels
    families: Sequence[str]
    studies: OptionModels = field(default_factory=dict)
    study_arms: OptionModels = field(default_factory=dict)
    study_metrics: Mapping[str, Sequence[str]] = field(default_factory=dict)
    workload_metrics: Mapping[str, Sequence[str]] = field(default_factory=dict)
    family_metrics: Mapping[str, Sequence[str]] = field(default_factory=dict)


def check(document: Document, known: Known) -> tuple[AnyScenario, tuple[str, ...]]:
    """Return the scenario in a document with notes about what could not be checked. Raises: ScenarioError."""
    if not isinstance(document.data, dict):
        raise ScenarioError([document.problem((), "expected a mapping (key: value)", code="not_a_mapping")])
    found = _Check(document, known)
    found.refuse_what_is_not_supported()
    found.schema()
    found.plugins()
    found.control()
    found.blocks()
    found.density()
    found.families()
    found.mounts()
    scenario = found.scenario()
    if found.problems or scenario is None:
        raise ScenarioError(sorted(found.problems, key=lambda problem: (problem.line, problem.column)))
    return scenario, tuple(found.notes)


def _common(models: OptionModels) -> type[BaseModel]:
    """Return a model of the options that all plugins of a group have alike; it says nothing about other keys."""
    loaded = [model.model_fields for model in models.values() if model is not None]
    alike: dict[str, Any] = {
        name: (info.annotation, info)
        for name, info in (loaded[0].items() if loaded else ())
        if all(name in fields and fields[name].annotation == info.annotation for fields in loaded)
    }
    return create_model("Common", __config__=ConfigDict(extra="ignore", strict=True), **alike)


class _Check:
    """One pass over a document: each method looks at one thing, so that a mistake hides no other."""

    def __init__(self, document: Document, known: Known) -> None:
        self.document = document
        self.known = known
        self.data: dict[str, Any] = dict(document.data)
        self.model: type[Scenario | StudyScenario] = StudyScenario if "study" in self.data else Scenario
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def _wrong(self, loc: Loc, message: str, code: str, at: str = "value") -> None:
        self.problems.append(self.document.problem(loc, message, code=code, at=at))

    def _mapping(self, key: str) -> dict[str, Any]:
        """Return the mapping at a top key; empty where there is none (pydantic says so)."""
        value = self.data.get(key)
        return value if isinstance(value, dict) else {}

    def refuse_what_is_not_supported(self) -> None:
        trials = self._mapping("trials")
        if trials.get("cache") == "cold":
            self._wrong(("trials", "cache"), "cold: not supported yet: only warm", "not_supported")
            self.data["trials"] = {**trials, "cache": "warm"}

    def schema(self) -> None:
        """Every minor version of our major one is read; unknown keys of a newer one are refused like any other."""
        given = self.data.get("schema")
        if isinstance(given, str) and not re.fullmatch(rf"{re.escape(SCHEMA)}(\.\d+)?", given):
            self._wrong(("schema",), f"expected {SCHEMA}, got {given!r}", "schema")

    def plugins(self) -> None:
        """Check the options of the workload and of every runtime, or of a study, with the models of their plugins."""
        if self.model is StudyScenario:
            self._study()
            return
        workload = self.data.get("workload")
        if isinstance(workload, dict):
            self.data["workload"] = self._options(("workload",), workload, "kind", self.known.workloads)
        runtimes = self._mapping("runtimes")
        if runtimes:
            self.data["runtimes"] = {
                name: self._options(("runtimes", name), entry, "backend", self.known.backends)
                if isinstance(entry, dict)
                else entry
                for name, entry in runtimes.items()
            }

    def _study(self) -> None:
        """Check the study's own options, and with its second model those of every arm."""
        study = self.data["study"]
        if not isinstance(study, dict):
            return
        self.data["study"] = self._options(("study",), study, "kind", self.known.studies)
        kind = study.get("kind")
        if not isinstance(kind, str) or kind not in self.known.study_arms:
            self.data["arms"] = {name: {} for name in self._mapping("arms")}
            return
        model = self.known.study_arms[kind]
        self.data["arms"] = {
            name: {"options": self._validated(("arms", name), {} if entry is None else entry, model)}
            for name, entry in self._mapping("arms").items()
        }

    def _options(self, loc: Loc, entry: dict[str, Any], selector: str, models: OptionModels) -> dict[str, Any]:
        """Return `{selector: name, options: checked}`; what is wrong with the selector itself, pydantic says."""
        name = entry.get(selector)
        options: Any = {key: value for key, value in entry.items() if key not in _BESIDE[selector]}
        chosen = {key: value for key, value in entry.items() if key in _BESIDE[selector]}
        if not isinstance(name, str) or not name:
            return chosen
        if name not in models:
            model = self._unknown((*loc, selector), name, models)
        elif (model := models[name]) is None:
            self.notes.append(f"{'.'.join(map(str, loc))}: {name} cannot be loaded here: its options were not checked")
        return {**chosen, "options": self._validated(loc, options, model)}

    def _validated(self, loc: Loc, options: Any, model: type[BaseModel] | None) -> Any:
        """Return options as their plugin's model, or as they are where they are wrong or there is no model."""
        if model is None:
            return options
        try:
            return model.model_validate(options)
        except ValidationError as error:
            self.problems += complaints(self.document, error, model, loc)
            return options

    def _unknown(self, loc: Loc, name: str, models: OptionModels) -> type[BaseModel] | None:
        """Refuse a plugin's name, and return the model that its options can be checked with all the same.

        That of the plugin which was most likely meant; else what all plugins have in common.
        """
        self._wrong(loc, f"{name}: unknown{did_you_mean(name, models)}", f"unknown_{loc[-1]}")
        meant = nearest(name, models)
        return models[meant] if meant else _common(models)

    def control(self) -> None:
        key = self.model.ARMS
        arms = self._mapping(key)
        if "control" not in self.data and arms:
            self.data["control"] = next(iter(arms))
        control = self.data.get("control")
        if isinstance(control, str) and arms and control not in arms:
            self._wrong(("control",), f"{control}: not one of the {key}{did_you_mean(control, arms)}", "control")

    def blocks(self) -> None:
        blocks = self._mapping("trials").get("blocks")
        if not isinstance(blocks, dict):
            return
        default = Blocks()
        low, high = blocks.get("min", default.min), blocks.get("max", default.max)
        if not isinstance(low, int) or not isinstance(high, int) or low <= high:
            return
        if "min" in blocks:
            which = "" if "max" in blocks else " by default"
            self._wrong(("trials", "blocks", "min"), f"{low} is more than max, which is {high}{which}", "blocks")
        else:
            self._wrong(("trials", "blocks", "max"), f"{high} is less than min, which is {low} by default", "blocks")

    def density(self) -> None:
        """A run of many instances measures what it is about, and nothing else."""
        if self.model is StudyScenario or "density" not in self.data:
            return
        if self.data["density"] is None:  # `density:` with nothing behind it: all by default
            self.data["density"] = {}
        if "metrics" in self.data:
            message = "not beside density, which has its own metrics: leave them out"
            self._wrong(("metrics",), message, "density", at="key")
        else:
            self.data["metrics"] = list(DENSITY_FAMILIES)

    def families(self) -> None:
        """Check the families in `metrics`, and that each metric of the gate belongs to one that is measured."""
        if self.model is StudyScenario:
            self._study_gate()
            return
        metrics = self.data.get("metrics")
        families = [name for name in metrics if isinstance(name, str)] if isinstance(metrics, list) else []
        known = (*self.known.families, *(DENSITY_FAMILIES if "density" in self.data else ()))
        for index, name in enumerate(metrics if isinstance(metrics, list) else []):
            if isinstance(name, str) and name not in known:
                suggestion = did_you_mean(name, self.known.families)
                self._wrong(("metrics", index), f"{name}: unknown family of metrics{suggestion}", "unknown_metrics")
        kind = self._mapping("workload").get("kind")
        reported = self.known.workload_metrics.get(kind, ()) if isinstance(kind, str) else ()
        words = {*families, *(name.partition(".")[0] for name in reported)}
        gated = self._mapping("gate").get("metrics")
        for index, name in enumerate(gated if isinstance(gated, list) else []):
            if isinstance(name, str) and name.partition(".")[0] not in words and not self._measures(families, name):
                message = f"{name}: not measured: its family is not in metrics"
                self._wrong(("gate", "metrics", index), message, "unknown_metrics")

    def _measures(self, families: Sequence[str], metric: str) -> bool:
        return any(metric in self.known.family_metrics.get(family, ()) for family in families)

    def mounts(self) -> None:
        """Check the mounts of all runtimes and of each, and that every volume is mounted somewhere."""
        own = [(("runtimes", name, "mounts"), runtime.get("mounts"))
               for name, runtime in self._mapping("runtimes").items() if isinstance(runtime, dict)]  # fmt: skip
        volumes, used = self._mapping("volumes"), set()
        for loc, mounts in [(("mounts",), self.data.get("mounts")), *own]:
            used |= self._mounts(loc, mounts, volumes)
        self.notes += [f"volumes.{name}: is mounted nowhere" for name in volumes if name not in used]

    def _mounts(self, loc: Loc, mounts: Any, volumes: Mapping[str, Any]) -> set[str]:
        """Check that each volume is there, and that no two mounts are at the same place; return the volumes."""
        entries = [entry if isinstance(entry, dict) else {} for entry in mounts] if isinstance(mounts, list) else []
        targets = [entry["target"].rstrip("/") if isinstance(entry.get("target"), str) else None for entry in entries]
        for index, entry in enumerate(entries):
            source = entry.get("source")
            if entry.get("type") == "volume" and isinstance(source, str) and source not in volumes:
                suggestion = did_you_mean(source, volumes) or "; volumes: {NAME: {size: 64MiB}} makes one"
                self._wrong((*loc, index, "source"), f"{source}: not one of the volumes{suggestion}", "volume")
            if targets[index] is not None and targets.index(targets[index]) < index:
                self._wrong((*loc, index, "target"), f"{entry['target']}: is mounted on twice", "target")
        return {str(entry.get("source")) for entry in entries if entry.get("type") == "volume"}

    def _study_gate(self) -> None:
        """Check that each metric of the gate is one of the study's."""
        kind = self._mapping("study").get("kind")
        measured = self.known.study_metrics.get(kind) if isinstance(kind, str) else None
        gated = self._mapping("gate").get("metrics")
        for index, name in enumerate(gated if isinstance(gated, list) else []):
            if isinstance(name, str) and measured is not None and name not in measured:
                message = f"{name}: not measured by this study{did_you_mean(name, measured)}"
                self._wrong(("gate", "metrics", index), message, "unknown_metrics")

    def scenario(self) -> AnyScenario | None:
        try:
            return self.model.model_validate(self.data)
        except ValidationError as error:
            self.problems += complaints(self.document, error, self.model)
            return None

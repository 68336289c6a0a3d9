"""The scenario: which workload runs in which runtimes, how often, and what is measured. See docs/scenario.md.

These models hold a scenario that was found right (`harness.model.reading` finds the mistakes): sizes are bytes,
durations ns, plugin options instances of the plugin's own model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.model.fields import DurationNs, MemoryBytes, Ratio, Strict, Strings, exactly_one, to_tuple
from harness.model.mounts import MountSection, VolumeName, VolumeSection
from harness.model.records import STUDY_PREFIX
from harness.model.spec import Limits, NetworkKind

SCHEMA = "harness.scenario/1"

# Names become parts of cgroup, domain and file names: lower case, no dots, short.
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=63)]
RuntimeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=24)]
Text = Annotated[str, Field(min_length=1)]


_NETWORK = "none, host or bridge; default: that of each backend"


class Image(Strict):
    """Where the one root file system comes from; paths are relative to the scenario's own directory."""

    build: Text | None = Field(default=None, description="directory with a Containerfile")
    oci: Text | None = Field(default=None, description="image of a registry: registry/name:tag")
    layout: Text | None = Field(default=None, description="directory or archive in OCI image layout")
    rootfs: Text | None = Field(default=None, description="directory that holds an unpacked root file system")
    name: Text | None = Field(default=None, description="image of the local store, as `harness image ls` shows it")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, type(self).model_fields)
        return self

    @property
    def kind(self) -> Literal["build", "oci", "layout", "rootfs", "name"]:
        kinds: tuple[Literal["build", "oci", "layout", "rootfs", "name"], ...]
        kinds = ("build", "oci", "layout", "rootfs", "name")
        return next(kind for kind in kinds if getattr(self, kind) is not None)

    @property
    def value(self) -> str:
        return str(getattr(self, self.kind))


class Workload(Strict):
    """What runs inside; `options` are those of the workload plugin `kind`."""

    kind: Text
    options: Any = None


class Runtime(Strict):
    """One column of the comparison; `options` are those of the backend plugin, the rest wins over the scenario's."""

    backend: Text
    network: NetworkKind | None = Field(default=None, description=_NETWORK)
    start: Literal["cold", "warm", "resumed", "restored", "restored-internal", "restored-external"] | None = Field(
        default=None, description="what was done before an instance is asked for; default: cold, nothing"
    )
    mounts: Annotated[tuple[MountSection, ...] | None, BeforeValidator(to_tuple)] = Field(
        default=None, description="what its instances mount, in place of the scenario's mounts"
    )
    options: Any = None


class LimitsSection(Strict):
    """The same limits on every side: a cgroup for processes and containers, the machine's size for VMs."""

    cpus: float = Field(default=1.0, gt=0, le=4096, description="CPUs; whole ones for VMs")
    memory_bytes: MemoryBytes = Field(default=256 << 20, alias="memory", description="memory, without swap")
    pids: int = Field(default=128, ge=1, le=4_194_304, description="processes and threads")

    @property
    def limits(self) -> Limits:
        return Limits(self.cpus, self.memory_bytes, self.pids)


class Blocks(Strict):
    """How many blocks count; in a block every runtime starts once, in random order."""

    min: int = Field(default=10, ge=1, le=10_000, description="blocks that always run")
    max: int = Field(default=30, ge=1, le=10_000, description="blocks after which the run stops undecided")
    extra: int | None = Field(
        default=None, ge=0, le=10_000, description="at most so many more, one for each noisy block; default: max / 5"
    )


class Trials(Strict):
    """How often, in which order and until when."""

    blocks: Blocks = Blocks()
    warmup: int = Field(default=1, ge=0, le=100, description="blocks before those that count; stored, never counted")
    precision: Ratio = Field(default=0.05, gt=0, lt=1, description="stop early when intervals are narrower than this")
    cache: Literal["warm"] = Field(default="warm", description="state of the host's page cache before a trial")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="of the random order; chosen and recorded if left out"
    )


class Density(Strict):
    """How many instances a trial starts, one after the other, and when it stops before it has started all of them."""

    counts: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], BeforeValidator(to_tuple)] = Field(
        default=(1, 2, 4, 8), min_length=2, description="numbers of instances at which everything is read, rising"
    )
    budget_bytes: MemoryBytes | None = Field(
        default=None, alias="budget", description="memory that all may take; default: half of what is available"
    )
    pressure: Ratio = Field(
        default=0.2, gt=0, lt=1, description="stop when tasks wait for memory (PSI, some) in more of the time than this"
    )
    settle_ns: DurationNs = Field(default=1_000_000_000, alias="settle", description="wait before everything is read")
    window_ns: DurationNs = Field(
        default=3_000_000_000, gt=0, alias="window", description="how long their CPU time is watched, when all are idle"
    )

    @model_validator(mode="after")
    def _counts_rise(self) -> Self:
        if list(self.counts) != sorted(set(self.counts)):
            raise ValueError("counts: expected rising numbers, each once")
        return self


class Gate(Strict):
    """What a later run may not make worse, and by how much."""

    margin: Ratio = Field(default=0.05, gt=0, lt=1, description="changes smaller than this do not matter")
    metrics: Strings = Field(default=(), description="names of metrics, such as startup.ready")


class StudyArm(Strict):
    """One arm of a study; `options` are those that the study's plugin has for its arms."""

    options: Any = None


class Study(Strict):
    """What is compared where nothing is started from one image; `options` are those of the study plugin `kind`."""

    kind: Text
    options: Any = None


class _Common(Strict):
    """What a scenario of runtimes and one of a study have alike. `control` is the arm that others are compared with."""

    schema_version: str = Field(alias="schema", description="harness.scenario/1")
    name: Name
    trials: Trials = Trials()
    gate: Gate | None = None


class StudyScenario(_Common):
    """A whole scenario of a study: its arms take the place of runtimes, and it has its own metrics."""

    study: Study
    arms: dict[RuntimeName, StudyArm] = Field(min_length=1)
    control: RuntimeName = Field(description="the arm that all others are compared with; default: the first")

    ARMS: ClassVar[str] = "arms"

    @property
    def contenders(self) -> dict[str, str]:
        """What is compared, in the file's order: the name of each arm, and what stands in a trial for its backend."""
        return dict.fromkeys(self.arms, f"{STUDY_PREFIX}{self.study.kind}")


class Scenario(_Common):
    """A whole scenario of runtimes. `control` is the runtime that all others are compared with."""

    image: Image
    workload: Workload
    limits: LimitsSection = LimitsSection()
    network: NetworkKind | None = Field(default=None, description=_NETWORK)
    volumes: dict[VolumeName, VolumeSection] | None = Field(default=None, description="new and empty for every trial")
    mounts: Annotated[tuple[MountSection, ...] | None, BeforeValidator(to_tuple)] = Field(
        default=None, description="what every instance mounts"
    )
    runtimes: dict[RuntimeName, Runtime] = Field(min_length=1)
    control: RuntimeName = Field(description="the runtime that all others are compared with; default: the first")
    metrics: Strings = Field(min_length=1, description="families of metrics, see `harness list probes`")
    density: Density | None = Field(default=None, description="start more and more instances; has its own metrics")

    ARMS: ClassVar[str] = "runtimes"

    @property
    def contenders(self) -> dict[str, str]:
        """What is compared, in the file's order: the name of each runtime with its backend."""
        return {name: runtime.backend for name, runtime in self.runtimes.items()}


AnyScenario = Scenario | StudyScenario


def resolved(scenario: AnyScenario) -> dict[str, Any]:
    """Return the scenario as JSON data: defaults written out, what is unset left out; bytes and ns."""
    document = scenario.model_dump(mode="json", exclude={"schema_version"}, exclude_none=True)
    return {"schema": SCHEMA, **document}


def scenario_hash(document: Mapping[str, Any]) -> str:
    """Return the sha256 (64 hex digits) of a resolved scenario: equal for equal content, however it was written.

    How a value came in (`overrides`, `only`) does not count, nor does the seed: neither changes what is measured.
    """
    content = {key: value for key, value in document.items() if key not in {"overrides", "only"}}
    content["trials"] = {key: value for key, value in content.get("trials", {}).items() if key != "seed"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

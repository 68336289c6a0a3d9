"""What a run leaves behind: the trial record (one line of trials.jsonl) and the run record (run.json)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TRIAL_SCHEMA = "harness.trial/1"
RUN_SCHEMA = "harness.run/1"

READY_METRIC = "startup.ready"
STUDY_PREFIX = "study:"
"""In the place of a backend's name: `study:build-cache`."""

_BASE_SUFFIX = "@base"
"""No name of a scenario has an `@` in it."""


def base_name(runtime: str) -> str:
    """Return the name of the arm that is `runtime` as it was at the base revision."""
    return f"{runtime}{_BASE_SUFFIX}"


def is_base(runtime: str) -> bool:
    """Return whether an arm is that of the base revision."""
    return runtime.endswith(_BASE_SUFFIX)


Status = Literal["ok", "failed", "timeout"]
RunStatus = Literal["running", "complete", "interrupted", "failed"]

ENDINGS: Mapping[str, str] = {
    "not-started": "the runtime or the VMM refused to start it",
    "workload-ended": "the workload ended by itself, with a code that is no success or before it was ready",
    "disk-full": "the workload ended by itself, and has said that a disk has no room for what it writes",
    "agent-failed": "the agent inside could not go on",
    "gone": "it ended or was reset without a word",
    "cgroup-oom": "the host's kernel killed a process of it, because the limit of its cgroup was reached",
    "guest-oom": "the guest's own kernel had no memory left: it panicked, or killed a process",
    "guest-panic": "the guest's kernel panicked",
    "guest-silent": "the guest runs, and its kernel has said nothing",
    "vmm-killed": "someone killed the VMM, or the host's kernel did",
    "vmm-crashed": "the VMM ended by a fault of its own",
    "vmm-failed": "the VMM ended with an error",
    "vmm-paused": "the VMM does not run the guest any more, though it is there",
    "host-lost": "the connection to the host that it was started on ended before the trial did",
}
"""What became of an instance whose trial failed, for machines. A newer version may write others."""


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One start to be made: `block` counts from 0 (warm-up blocks first), `order` is the place inside the block."""

    trial_id: str
    block: int
    order: int
    runtime: str
    backend: str
    warmup: bool = False

    @property
    def starts_instance(self) -> bool:
        """Whether it starts something that runs the workload and attests it; the trials of a study do not."""
        return not self.backend.startswith(STUDY_PREFIX)


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A stored measurement: like `Measurement`, with the metric by its unit alone, so that old runs stay readable."""

    value: int | float
    unit: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attestation:
    """What the agent says that it really ran on. `root_digest` covers the read-only root tree."""

    root_digest: str
    exe_sha256: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    uid: int
    gid: int
    cwd: str
    cpus: int
    memory_bytes: int
    kernel: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Noise:
    """How disturbed the host was during a trial; ratios are of the trial's wall time. None: this host does not tell."""

    steal_ratio: float | None = None
    psi_cpu_some_ratio: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """What `n` instances of one runtime took together, while the last of them was ready and all were idle."""

    n: int
    metrics: Mapping[str, MetricValue]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial, whether it worked or not. `marks` in ns since `requested`; `metrics` only what was measured.

    `ending`: of a failed trial, one of ENDINGS, None where only `error` tells.
    `levels`: of a trial that started more and more instances (`density:`), what was read at each number of them.
    """

    spec: TrialSpec
    status: Status
    started: str
    error: str | None = None
    ending: str | None = None
    accelerator: str | None = None
    marks: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    attestation: Attestation | None = None
    noise: Noise = Noise()
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """run.json: how the run was planned and on what it ran. `metrics` maps a name to its definition as stored.

    `study` is empty where runtimes are compared, else its `kind`, `doc` and `options`; then there is no image.
    `reported` is the first metric that the workload itself reports; empty for most workloads.
    `base` is empty unless arms of a base revision ran in the same blocks (`base_name`); then it has `revision`,
    `commit`, `scenario` (the file's name), `scenario_hash`, `root_digest`, and `confirms`, the id of the run whose
    verdict this one was made to confirm.
    `matrix` is empty unless this is one cell of a matrix: `series` is the run id of the first one, `number` counts from
    1 to `cells`, and `cell` has each swept key with its value here.
    """

    run_id: str
    scenario: str
    scenario_hash: str
    status: RunStatus
    started: str
    seed: int
    control: str
    runtimes: tuple[str, ...]
    image: Mapping[str, Any]
    host: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, str]]
    tools: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    stop_reason: str = ""
    study: Mapping[str, Any] = field(default_factory=dict)
    reported: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    matrix: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> dict[str, str]:
        """Each runtime that ran at the base revision too, with the name of that arm."""
        return {name: base_name(name) for name in self.runtimes if base_name(name) in self.runtimes}

    @property
    def headline(self) -> str:
        """The metric that people ask for first: a study's or workload's first, `startup.ready` of other runtimes.

        Of a run that does not measure that one: the first that it does.
        """
        first = next(iter(self.metrics), READY_METRIC)
        if self.study or (not self.reported and READY_METRIC not in self.metrics):
            return first
        return self.reported or READY_METRIC

"""The finished analysis of one run as data: the only thing that report formats see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.model.matrix import shortened
from harness.model.records import RunRecord, TrialRecord

Verdict = Literal["holds", "fails", "not shown"]


@dataclass(frozen=True, slots=True)
class Effect:
    """A runtime against the control over `n` paired blocks.

    ratio: runtime / control. difference: runtime - control in the metric's unit, where zeros occur. exact: the same
    for a property, without statistics. `lo`, `hi`: exact signed-rank interval at 95 %, None below 6 blocks.
    `wording` is `slower`, `undecided`, ...
    """

    kind: Literal["ratio", "difference", "exact"]
    value: float
    lo: float | None
    hi: float | None
    n: int
    wording: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric of one runtime over the counted trials (succeeded, warm-up excluded).

    `n` trials measured it, `absent` reasons say why others did not. `lo`, `hi`: order-statistic interval of the
    median at 95 %, None below 6 values or where the metric is exact. Values are in `unit`. `labels` are those that
    all trials agree on: what explains the value.
    """

    metric: str
    runtime: str
    unit: str
    n: int
    median: float | None
    lo: float | None
    hi: float | None
    minimum: float | None
    maximum: float | None
    effect: Effect | None
    absent: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What the agent saw of one runtime; these may differ between arms. `own_kernel` is None where it cannot be told.

    `cpus` and `memory_bytes` are those of all trials: more than one value each, if trials differ.
    """

    runtime: str
    kernel: str
    own_kernel: bool | None
    cpus: tuple[int, ...]
    memory_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whether all arms ran the same thing, over all `trials` that succeeded (warm-up too).

    `differences` names each field that differs; it is empty when `identical`.
    """

    identical: bool
    attested: int
    trials: int
    root_digest: str
    exe_sha256: str
    differences: tuple[str, ...] = ()
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One trial that gave no complete result; `error` as recorded, `ending` one of `records.ENDINGS` or empty."""

    trial_id: str
    runtime: str
    status: str
    error: str
    ending: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reader must know before believing the table (noise, TCG, few blocks), and what helps."""

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """Metrics that these runtimes do not have, and why; `vm (some trials)` where only some lack them."""

    metrics: tuple[str, ...]
    runtimes: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """What a claim is judged by: `of` names the ratio (`startup.ready, VM / container`), over `n` paired blocks.

    `lo`, `hi`: exact signed-rank interval at 95 %, None below 6 blocks.
    """

    of: str
    value: float
    lo: float | None
    hi: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the comparison table of the text: what it claims for each side, what was measured, the verdict.

    `measured_*` are sentences for people, `short_*` the same in a few words, for a picture. `remark` says what the run
    shows beside the claim. `claim_vm` is empty where the text speaks of containers alone. `contrast` is None where
    properties decide, which have no statistics. `scenario` is the shipped one that measures the row; `run_id` and
    `blocks` (those that count) tell which run did, in a table of several.
    """

    feature: str
    claim_vm: str
    claim_container: str
    measured_vm: str
    measured_container: str
    verdict: Verdict
    reason: str
    remark: str = ""
    run_id: str = ""
    short_vm: str = ""
    short_container: str = ""
    contrast: Contrast | None = None
    scenario: str = ""
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A run, analysed. `cells` are ordered by metric, then by the scenario's order of runtimes.

    `blocks` and `warmup_blocks` count blocks with any trial; `trials` counts all trials, warm-up and failed ones too.
    `records` are these trials, for charts of what lies behind a median. `weights` are those of the exposure score that
    whoever reads wants otherwise, by part.
    """

    run: RunRecord
    cells: tuple[Cell, ...]
    identity: Identity
    failures: tuple[Failure, ...] = ()
    findings: tuple[Finding, ...] = ()
    missing: tuple[Missing, ...] = ()
    claims: tuple[Claim, ...] = ()
    blocks: int = 0
    warmup_blocks: int = 0
    trials: int = 0
    accelerators: Mapping[str, str] = field(default_factory=dict)
    records: tuple[TrialRecord, ...] = field(default=(), repr=False)
    weights: Mapping[str, float] = field(default_factory=dict)

    def cell(self, metric: str, runtime: str) -> Cell | None:
        """Return one cell, None where this run has no such metric."""
        return next((cell for cell in self.cells if (cell.metric, cell.runtime) == (metric, runtime)), None)


@dataclass(frozen=True, slots=True)
class Series:
    """The cells of a matrix that have a run, analysed, in the matrix' order; at least one."""

    reports: tuple[Report, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that are swept."""
        return tuple(self.reports[0].run.matrix["cell"])

    @property
    def cells(self) -> int:
        """How many cells the matrix has, those without a run too."""
        return int(self.reports[0].run.matrix["cells"])

    @property
    def settings(self) -> tuple[tuple[str, ...], ...]:
        """Return of each cell the values of the swept keys, as short as they can be told apart."""
        columns = zip(*(report.run.matrix["cell"].values() for report in self.reports), strict=True)
        return tuple(zip(*(shortened(column) for column in columns), strict=True))

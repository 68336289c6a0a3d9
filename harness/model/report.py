"""The finished analysis of one run as data: the only thing that report formats see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.model.records import RunRecord

Verdict = Literal["holds", "fails", "not shown"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric of one runtime over the counted trials (warm-up excluded).

    `n` trials measured it, `absent` reasons say why others did not. `lo`, `hi`: order-statistic interval of the
    median at 95 %, None below 6 values or where the metric is exact. Values are in `unit`.
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
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """A runtime against the control over `n` paired blocks: a ratio, or a difference where zeros occur.

    `lo`, `hi`: exact signed-rank interval at 95 %, None below 6 blocks. `wording` is `1.8x slower`, `undecided`, ...
    """

    kind: Literal["ratio", "difference", "exact"]
    value: float
    lo: float | None
    hi: float | None
    n: int
    wording: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Whether all arms ran the same thing. `differences` names each field that differs, empty when `identical`."""

    identical: bool
    attested: int
    trials: int
    root_digest: str
    exe_sha256: str
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One trial that gave no complete result; `error` as recorded."""

    trial_id: str
    runtime: str
    status: str
    error: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a reader must know before believing the table (noise, TCG, few blocks), and what helps."""

    code: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the comparison table of the text: what it claims for each side, what was measured, the verdict."""

    feature: str
    claim_vm: str
    claim_container: str
    measured_vm: str
    measured_container: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """A run, analysed. `cells` are ordered by metric, then by the scenario's order of runtimes."""

    run: RunRecord
    cells: tuple[Cell, ...]
    identity: Identity
    failures: tuple[Failure, ...] = ()
    findings: tuple[Finding, ...] = ()
    claims: tuple[Claim, ...] = ()
    blocks: int = 0
    accelerators: dict[str, str] = field(default_factory=dict)

"""What one run has measured of its arms, asked by what their facts say of them: the ground of claims on layering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.statistics import Estimate, paired_ratio
from harness.model.records import RunRecord, TrialRecord
from harness.model.report import Cell, Claim, Contrast, Verdict
from harness.model.units import format_bytes, format_ns, format_ratio


@dataclass(frozen=True, slots=True)
class Row:
    """What a run has on one claim: a sentence for each side and the same in a few words, the verdict, its reason."""

    vm: str
    container: str
    verdict: Verdict
    reason: str
    remark: str = ""
    short: tuple[str, str] = ("", "")
    contrast: Contrast | None = None

    def claim(self, feature: str, claimed: tuple[str, str]) -> Claim:
        """Return it as a row of the table. `claimed` is what the text says of each side."""
        return Claim(
            feature, *claimed, self.vm, self.container, self.verdict, self.reason, self.remark,
            short_vm=self.short[0], short_container=self.short[1], contrast=self.contrast,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """A run with its counted trials and the cells of its report."""

    run: RunRecord
    trials: Sequence[TrialRecord]
    cells: Sequence[Cell]

    def facts(self, arm: str) -> Mapping[str, Any]:
        return self.run.arms.get(arm, {})

    def arm(self, **facts: object) -> str | None:
        """Return the scenario's first arm whose facts have these values; None where there is none."""
        return next(iter(self.arms(**facts)), None)

    def arms(self, **facts: object) -> list[str]:
        """Return all such arms."""
        return [
            name
            for name in self.run.runtimes
            if all(self.facts(name).get(key) == value for key, value in facts.items())
        ]

    def cell(self, arm: str | None, metric: str) -> Cell | None:
        return next((cell for cell in self.cells if (cell.metric, cell.runtime) == (metric, arm)), None)

    def median(self, arm: str | None, metric: str) -> float | None:
        cell = self.cell(arm, metric)
        return cell.median if cell else None

    def text(self, arm: str | None, metric: str) -> str:
        """Return a median for people, or why there is none."""
        cell = self.cell(arm, metric)
        if cell is None or cell.median is None:
            return (cell.absent or ("not measured",))[0] if cell else "not measured"
        forms = {"ns": format_ns, "bytes": format_bytes}
        return forms[cell.unit](cell.median) if cell.unit in forms else f"{cell.median:g}"

    def ratio(self, above: str | None, below: str | None, metric: str) -> Estimate | None:
        """Return above / below of a metric, paired by block; None without a block in which both are above 0."""
        values: dict[str, dict[int, float]] = {}
        for trial in self.trials:
            if metric in trial.metrics:
                values.setdefault(trial.spec.runtime, {})[trial.spec.block] = trial.metrics[metric].value
        one, other = values.get(above or "", {}), values.get(below or "", {})
        blocks = [block for block in sorted(one.keys() & other.keys()) if one[block] > 0 and other[block] > 0]
        return paired_ratio([one[block] / other[block] for block in blocks]) if blocks else None


def times(ratio: Estimate | Contrast) -> str:
    """Return a ratio with its interval: `4.48x [4.47 - 4.49]`."""
    if ratio.lo is None or ratio.hi is None:
        return format_ratio(ratio.value)
    return f"{format_ratio(ratio.value)} [{format_ratio(ratio.lo)[:-1]} - {format_ratio(ratio.hi)[:-1]}]"


def contrast(of: str, ratio: Estimate | None) -> Contrast | None:
    """Return a ratio as what a claim is judged by."""
    return Contrast(of, ratio.value, ratio.lo, ratio.hi, ratio.n) if ratio else None

"""The row on isolation held against what was disturbed and what broke; and one row of it, of all runs that bear on it.

What is within reach is told by a run of runtimes (`claims`), what a neighbour can disturb and what it can bring down by
runs of two studies. "Complete", which the text says of VMs, fails where any of the three does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis.evidence import Row
from harness.analysis.isolation import Kept, contained_of, kept_of
from harness.model.records import RunRecord
from harness.model.report import Cell, Claim, Verdict

FEATURE = "Isolation"
REACH = "isolation"
SCENARIOS = {"interference": "noisy-neighbour", "containment": "containment"}
"""By the study, the shipped scenario that runs it."""
_PARTS = {REACH: "reach", "noisy-neighbour": "interference", "containment": "containment"}
LOSS_MAX = 0.1
"""What a complete isolation may lose of its work beside a neighbour."""


def study_claim(run: RunRecord, cells: Sequence[Cell], claimed: tuple[str, str]) -> Claim | None:
    """Return the row from a run of one of the two studies; None for any other run."""
    kind = str(run.study.get("kind"))
    judge = {"interference": _interference, "containment": _containment}.get(kind)
    return replace(judge(run, cells).claim(FEATURE, claimed), scenario=SCENARIOS[kind]) if judge else None


def _arms(run: RunRecord, boundary: str) -> list[str]:
    return [name for name in run.runtimes if run.arms.get(name, {}).get("boundary") == boundary]


def _interference(run: RunRecord, cells: Sequence[Cell]) -> Row:
    vms, containers = ({arm: kept_of(cells, arm) for arm in _arms(run, kind)} for kind in ("vm", "container"))
    texts = (_kept_text(vms, "no VM in this run"), _kept_text(containers, "no container in this run"))
    verdict, reason = _kept_verdict(vms)
    return Row(*texts, verdict, reason, short=(_kept_short(vms), _kept_short(containers)))


def _kept_text(arms: dict[str, list[Kept]], none: str) -> str:
    told = [
        f"{arm} beside a noisy one: {', '.join(kept.text() for kept in kinds)}" for arm, kinds in arms.items() if kinds
    ]
    return "; ".join(told) or none


def _kept_short(arms: dict[str, list[Kept]]) -> str:
    kept = [one.kept for kinds in arms.values() for one in kinds if one.kept is not None]
    return f"keeps {min(kept):.0%} or more" if kept else ""


def _kept_verdict(vms: dict[str, list[Kept]]) -> tuple[Verdict, str]:
    found = [(arm, kept) for arm, kinds in vms.items() for kept in kinds if kept.kept is not None]
    if not found:
        return "not shown", "no VM was disturbed in this run"
    if any(kept.lo is None or kept.hi is None for _, kept in found):
        return "not shown", "fewer than 6 blocks hold a VM's values: no interval, no verdict"
    lost = [(arm, kept) for arm, kept in found if kept.hi is not None and kept.hi < 1 - max(kept.floor, LOSS_MAX)]
    if lost:
        arm, worst = min(lost, key=lambda pair: pair[1].kept or 0)
        return (
            "fails",
            f"beside a noisy one {arm} is left with {worst.kept:.0%} of its work ({worst.kind}): not complete",
        )
    if all(kept.lo is not None and kept.lo >= 1 - LOSS_MAX for _, kept in found):
        return "holds", f"beside a noisy one the VM loses less than {LOSS_MAX:.0%} of any work"
    noise = max(kept.floor for _, kept in found)
    return "not shown", f"no loss beyond the noise: quiet windows alone differ by up to {noise:.0%}"


def _containment(run: RunRecord, cells: Sequence[Cell]) -> Row:
    vms, containers = (
        {arm: found for arm in _arms(run, kind) if (found := contained_of(cells, arm))} for kind in ("vm", "container")
    )
    texts = [
        "; ".join(f"{arm}: {found.text()}" for arm, found in arms.items()) or f"no {kind} in this run"
        for kind, arms in (("VM", vms), ("container", containers))
    ]
    shorts = ["; ".join(f"{one.held:g} of {one.of} faults held" for one in arms.values()) for arms in (vms, containers)]
    broke = [f"{arm}: {', '.join(found.broke)}" for arm, found in vms.items() if found.broke]
    verdict: Verdict = "fails" if broke else "holds" if vms else "not shown"
    tried = any(cell.metric == "containment.panic" and cell.runtime in vms and cell.n for cell in cells)
    panicked = ", a panic of its kernel among them" if tried else ""
    reason = {
        "fails": f"not every fault stayed in the VM ({'; '.join(broke)})",
        "holds": f"every fault that was made in the VM stayed in it{panicked}",
        "not shown": "no VM was broken in this run",
    }[verdict]
    return Row(texts[0], texts[1], verdict, reason, short=(shorts[0], shorts[1]))


def joined(rows: Sequence[Claim]) -> list[Claim]:
    """Return one row of those on isolation: for each of the three parts the run with most blocks that shows it.

    It fails where a part does, holds where what is within reach does and no part that was measured is undecided.
    """
    best: dict[str, Claim] = {}
    for row in sorted(rows, key=lambda row: (row.verdict == "not shown", -row.blocks)):
        best.setdefault(row.scenario, row)
    parts = {scenario: best[scenario] for scenario in _PARTS if scenario in best}
    if len(parts) < 2:
        return list(rows)
    verdicts = {row.verdict for row in parts.values()}
    reach = parts.get(REACH)
    whole = verdicts == {"holds"} and reach is not None
    missing = [name for scenario, name in _PARTS.items() if scenario not in parts]
    first = reach or next(iter(parts.values()))
    return [
        replace(
            first,
            verdict="fails" if "fails" in verdicts else "holds" if whole else "not shown",
            measured_vm=_all(parts, "measured_vm"),
            measured_container=_all(parts, "measured_container"),
            reason="; ".join(f"{_PARTS[scenario]}: {row.reason}" for scenario, row in parts.items()),
            remark=f"not measured: {', '.join(missing)}" if missing else "",
            run_id=", ".join(dict.fromkeys(row.run_id for row in parts.values())),
            blocks=min(row.blocks for row in parts.values()),
        )
    ]


def _all(parts: dict[str, Claim], field: str) -> str:
    return "; ".join(str(getattr(row, field)) for row in parts.values())

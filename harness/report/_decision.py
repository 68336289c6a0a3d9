"""What a gate decided, for people: the words and rows that every format of it shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.analysis.decision import Decision, Outcome
from harness.analysis.gate import Change
from harness.model.report import Effect
from harness.report._tables import effect_text

HEAD = ("metric", "runtime", "change", "n", "p", "verdict", "why")
OUTCOMES: dict[Outcome, str] = {
    "passed": "passed: nothing that is guarded got worse",
    "regressed": "regressed: at least one guarded metric got worse by more than the margin",
    "inconclusive": "undecided: too few or too noisy trials to exclude a regression",
    "not-comparable": "not comparable: no verdict",
}
_ORDER = ("regressed", "worse-small", "not-comparable", "inconclusive", "improved", "equivalent")


def title(decision: Decision) -> str:
    """Return one line: what was held against what, and the margin."""
    against = {"runs": "run", "history": "the", "revisions": "revision"}[decision.kind]
    return f"{decision.candidate or 'nothing'} against {against} {decision.base}, margin {decision.policy.margin:.0%}"


def ordered(decision: Decision) -> list[Change]:
    """Return the changes with those first that matter: guarded ones, then by verdict."""
    return sorted(decision.changes, key=lambda one: (not one.gated, _ORDER.index(one.verdict), one.metric))


def row(change: Change) -> list[str]:
    """Return a change as cells of HEAD; guarded metrics carry a star, exploratory p-values a q."""
    p = "" if change.p is None else f"{'p' if change.gated else 'q'} {change.p:.2g}"
    verdict = f"{change.verdict} (accepted)" if change.accepted else change.verdict
    why = f"accepted: {change.accepted}; {change.reason}" if change.accepted else change.reason
    name = f"{change.metric} *" if change.gated else change.metric
    return [name, change.runtime, amount(change), str(change.n) if change.n else "", p, verdict, why]


def amount(change: Change) -> str:
    """Return how much changed, with its interval: `1.12x [1.08 - 1.17]`, or nothing where that is not told."""
    if change.value is None:
        return ""
    kind: Literal["ratio", "difference"] = "ratio" if change.scale == "ratio" else "difference"
    return effect_text(Effect(kind, change.value, change.lo, change.hi, change.n, ""), change.unit)


def shown(decision: Decision, *, everything: bool) -> list[Change]:
    """Return what a short table shows: all that is guarded, and of the rest what changed."""
    quiet = {"equivalent", "inconclusive"}
    return [one for one in ordered(decision) if everything or one.gated or one.verdict not in quiet]


def legend(changes: Sequence[Change]) -> str:
    """Return the line under a table that says what its marks mean."""
    parts = ["* guarded"]
    if any(not change.gated for change in changes):
        parts.append("others exploratory, with q-values (false discovery rate)")
    if any(change.relative for change in changes):
        parts.append("changes are of the ratio to the control, so that a slower host is no slower runtime")
    return "; ".join(parts)

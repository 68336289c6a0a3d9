"""One decision out of many comparisons: may this run pass. Pure; `harness gate` and `harness compare` show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from harness.analysis import gate, history
from harness.analysis.gate import Change, Policy
from harness.model.history import Entry, Judged
from harness.model.records import RunRecord, TrialRecord, is_base

RECENT_RUNS = 200
"""What came before cannot change a verdict: a step is looked for among the newest 30 runs that mean the same."""
Outcome = Literal["passed", "regressed", "inconclusive", "not-comparable"]
Trials = Sequence[TrialRecord]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A change that people know of and want. `metric`, `runtime` may be globs; `since` is a run id or a commit."""

    metric: str
    runtime: str
    since: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What was compared with what, every change, and the outcome. `refusals` say why nothing could be compared.

    `series` is what a history was judged by. `confirmation` is the run of fresh blocks that a regression was held
    against; empty where there was none.
    """

    kind: Literal["runs", "history", "revisions"]
    base: str
    candidate: str
    policy: Policy
    changes: tuple[Change, ...]
    refusals: tuple[str, ...] = ()
    series: tuple[Judged, ...] = ()
    confirmation: str = ""

    @property
    def gated(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.gated)

    @property
    def outcome(self) -> Outcome:
        """A confirmed regression outweighs what is undecided; without anything to compare there is no pass."""
        verdicts = {change.verdict for change in self.gated if not change.accepted}
        if "regressed" in verdicts:
            return "regressed"
        if self.refusals or not self.gated or "not-comparable" in verdicts:
            return "not-comparable"
        return "inconclusive" if "inconclusive" in verdicts else "passed"


def compare_runs(
    base: tuple[RunRecord, Trials], candidate: tuple[RunRecord, Trials], policy: Policy, *, anyway: bool = False
) -> Decision:
    """Return what changed between two runs of one scenario. `anyway` compares them though they differ in more."""
    (old, old_trials), (new, new_trials) = base, candidate
    refused = gate.refusals(old, new)
    if refused and not anyway:
        return Decision("runs", old.run_id, new.run_id, policy, (), tuple(refused))
    moved = gate.redefined(old, new)
    samples = [one for one in gate.samples_of_runs(base, candidate) if one.metric not in moved]
    both = [runtime for runtime in new.runtimes if runtime in old.runtimes]
    found = (
        *gate.changes(new.metrics, samples, policy),
        *gate.failure_changes(old_trials, new_trials, both),
        *_redefined(new, moved, policy),
    )
    return Decision("runs", old.run_id, new.run_id, policy, found)


def _redefined(run: RunRecord, metrics: set[str], policy: Policy) -> Iterator[Change]:
    for metric in sorted(metrics):
        text = run.metrics[metric]
        yield Change(
            metric, "*", text.get("unit", ""), text.get("better", ""), "ratio", None, None, None, 0, None,
            gated=policy.guards(metric), relative=False, verdict="not-comparable",
            reason="the metric is defined otherwise in the base",
        )  # fmt: skip


def compare_revisions(run: RunRecord, trials: Trials, policy: Policy) -> Decision:
    """Return what changed since the base revision, whose arms ran in the same blocks (`RunRecord.pairs`)."""
    samples = list(gate.samples_of_pairs(trials, run.pairs, list(run.metrics)))
    theirs = [_unbased(trial) for trial in trials if is_base(trial.spec.runtime)]
    ours = [trial for trial in trials if not is_base(trial.spec.runtime)]
    found = (*gate.changes(run.metrics, samples, policy), *gate.failure_changes(theirs, ours, list(run.pairs)))
    refusals = () if run.pairs else ("the base revision has none of these runtimes",)
    base, commit = str(run.base.get("revision", "")), str(run.base.get("commit", ""))
    name = f"{base} ({commit[:8]})" if commit else base
    return Decision("revisions", name, run.run_id, policy, found, refusals)


def _unbased(trial: TrialRecord) -> TrialRecord:
    """Return a trial of a base arm under the name of the runtime that it is the base of."""
    return replace(trial, spec=replace(trial.spec, runtime=trial.spec.runtime.rpartition("@")[0]))


def suspects(decision: Decision) -> tuple[Change, ...]:
    """Return what would make a gate red, and has to be confirmed first."""
    return tuple(change for change in decision.gated if change.verdict == "regressed" and not change.accepted)


def confirmed(decision: Decision, fresh: Decision) -> Decision:
    """Return the decision after a second, independent batch of blocks: a regression stands where that batch shows it.

    It does where its interval lies wholly on the worse side of no change and its estimate beyond the margin: to ask for
    the whole interval once more would miss half of the true regressions that the first batch just found. What is not
    confirmed is undecided, not fine.
    """
    again = {(change.metric, change.runtime): change for change in fresh.changes}
    red = suspects(decision)
    changes = tuple(
        _held_against(change, again.get((change.metric, change.runtime)), decision.policy.margin)
        if change in red
        else change
        for change in decision.changes
    )
    return replace(decision, changes=changes, confirmation=fresh.candidate)


def _held_against(change: Change, fresh: Change | None, margin: float) -> Change:
    if fresh is None or fresh.value is None:
        return replace(change, verdict="inconclusive", reason=f"{change.reason}; fresh blocks did not measure it")
    if fresh.verdict == "regressed" or (fresh.verdict == "worse-small" and _beyond(fresh, margin)):
        return replace(change, reason=f"{change.reason}; confirmed by {_told(fresh)}")
    return replace(change, verdict="inconclusive", reason=f"{change.reason}, but not confirmed by {_told(fresh)}")


def _beyond(change: Change, margin: float) -> bool:
    """Return whether the estimate of a ratio is worse by more than the margin; of a difference nothing less will do."""
    if change.scale != "ratio" or change.value is None:
        return False
    worse = 1 / change.value if change.better == "higher" else change.value
    return worse > 1 + margin


def _told(fresh: Change) -> str:
    interval = "" if fresh.lo is None or fresh.hi is None else f" [{fresh.lo:.3g} - {fresh.hi:.3g}]"
    mark = "x" if fresh.scale == "ratio" else ""
    return f"{fresh.n} fresh blocks: {fresh.value:.3g}{mark}{interval}"


def check_history(entries: Sequence[Entry], policy: Policy) -> Decision:
    """Return whether the newest run ends a history in a step for the worse: of its newest RECENT_RUNS, see `judge`."""
    newest = entries[-1].run_id if entries else ""
    judged = judge_all(entries[-RECENT_RUNS:], policy)
    return Decision(
        "history", f"{max(0, len(entries) - 1)} runs before", newest, policy, tuple(map(_of_series, judged)),
        series=judged,
    )  # fmt: skip


def judge_all(entries: Sequence[Entry], policy: Policy) -> tuple[Judged, ...]:
    """Return every guarded metric of every runtime of the newest run, judged; metrics without a better side are not."""
    if not entries:
        return ()
    found = []
    for runtime, cells in entries[-1].cells.items():
        for metric in cells:
            better = entries[-1].definitions.get(metric, ("", "neither"))[1]
            one = history.series(entries, runtime, metric)
            if policy.guards(metric) and better != "neither" and one is not None:
                found.append(history.judge(one, policy.margin))
    return tuple(found)


def _of_series(judged: Judged) -> Change:
    series, step = judged.series, judged.step
    verdicts: Mapping[str, gate.Verdict] = {
        "regressed": "regressed", "no-step": "equivalent", "too-few-runs": "inconclusive",
    }  # fmt: skip
    scale, value = _moved(judged)
    return Change(
        series.metric, series.runtime, series.unit, series.better, scale, value, None, None,
        len(series.points) - judged.first,
        None if step is None else step.p,
        # A control that gets slower makes all others look quicker: worth a word, but no red by itself.
        gated=series.relative, relative=series.relative, verdict=verdicts[judged.verdict], reason=judged.reason,
    )  # fmt: skip


def _moved(judged: Judged) -> tuple[gate.Scale, float | None]:
    """Return by how much a series stepped: a ratio, or a difference where zeros occur; None without a step."""
    series, step = judged.series, judged.step
    places = range(judged.first, len(series.points))
    logs = all(float(series.compared(place) or 0) > 0 for place in places)
    if step is None:
        return ("ratio" if logs else "difference"), None
    worse = step.after - step.before if series.better != "higher" else step.before - step.after
    return ("ratio", math.exp(worse)) if logs else ("difference", worse)


def accept(decision: Decision, rules: Sequence[Accepted], *, known: Sequence[str]) -> Decision:
    """Return the decision with regressions that somebody accepted marked so. `known`: run ids and commits of today."""
    return replace(decision, changes=tuple(_accepted(change, rules, known) for change in decision.changes))


def _accepted(change: Change, rules: Sequence[Accepted], known: Sequence[str]) -> Change:
    for rule in rules:
        fits = fnmatchcase(change.metric, rule.metric) and fnmatchcase(change.runtime, rule.runtime)
        if change.verdict == "regressed" and fits and any(name.startswith(rule.since) for name in known):
            return replace(change, accepted=rule.reason)
    return change

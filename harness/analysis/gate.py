"""What changed between a base and a candidate, and whether it may: two gates, so that neither noise nor chance is red.

A metric has regressed only where its whole interval lies beyond the margin *and* its p-value, corrected for all
declared metrics and runtimes together (Holm), is at most 5 %. Metrics that no gate declares are shown with q-values
(Benjamini and Hochberg) and never fail anything. Two runs are compared by each runtime's ratio to the control of its
own blocks, so that a slower host is not taken for a slower runtime; a control is compared with itself and never
red: it may be the host that moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from harness.analysis.significance import false_discovery, holm, rank_sum_p, shift, signed_rank_p
from harness.analysis.statistics import ALPHA, Estimate, median, paired_difference, wilson_interval
from harness.analysis.summary import counted
from harness.model.records import RunRecord, TrialRecord

Verdict = Literal["regressed", "worse-small", "equivalent", "improved", "inconclusive", "not-comparable"]
Scale = Literal["ratio", "difference", "exact"]
FAILURES = "trials.failed"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is guarded: `metrics` are names or globs (`startup.*`), `margin` is a ratio (0.05: five per cent)."""

    metrics: tuple[str, ...]
    margin: float = 0.05

    def guards(self, metric: str) -> bool:
        return any(fnmatchcase(metric, pattern) for pattern in self.metrics)


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one runtime, candidate against base.

    ratio: candidate / base; difference: candidate - base in `unit`, where zeros occur; exact: two properties. `p` is
    adjusted: Holm's where `gated`, a q-value elsewhere. `relative`: both sides were divided by their own control.
    """

    metric: str
    runtime: str
    unit: str
    better: str
    scale: Scale
    value: float | None
    lo: float | None
    hi: float | None
    n: int
    p: float | None
    gated: bool
    relative: bool
    verdict: Verdict
    reason: str
    accepted: str = ""


@dataclass(frozen=True, slots=True)
class Samples:
    """What is compared of one metric and runtime: values of the same blocks (`paired`), or of two runs.

    `warn_only`: a control between two runs, where all others are divided by theirs: it may be the host that moved.
    """

    metric: str
    runtime: str
    base: Sequence[float]
    candidate: Sequence[float]
    paired: bool
    relative: bool = False
    warn_only: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """An estimate before it is judged: `worse` is oriented so that above 0 is worse, on the scale of `limit`."""

    samples: Samples
    scale: Scale
    shown: Estimate
    worse: Estimate
    limit: float
    p: float


def judge(worse: Estimate, limit: float, p: float) -> tuple[Verdict, str]:
    """Return the verdict on an estimate for which 0 is no change and above 0 is worse, with the reason."""
    lo, hi = worse.lo, worse.hi
    if lo is None or hi is None:
        return "inconclusive", f"an interval needs 6 values on each side, here are {worse.n}"
    beyond = lo > limit
    if beyond and p > ALPHA:
        return "inconclusive", f"beyond the margin, but too few values for this many comparisons (p {p:.2g})"
    rules: tuple[tuple[bool, Verdict, str], ...] = (
        (-limit <= lo and hi <= limit, "equivalent", "the whole interval is within the margin"),
        (beyond, "regressed", "the whole interval is beyond the margin"),
        (hi < 0, "improved", "the whole interval is on the better side"),
        (lo > 0, "worse-small", "worse, but perhaps by less than the margin"),
        (True, "inconclusive", "the interval holds both no change and more than the margin"),
    )
    return next((verdict, reason) for holds, verdict, reason in rules if holds)


def changes(
    definitions: Mapping[str, Mapping[str, str]], samples: Sequence[Samples], policy: Policy
) -> tuple[Change, ...]:
    """Return every comparison with its verdict. Metrics without a better side are shown and never judged."""
    found = [_estimate(one, definitions.get(one.metric, {}), policy.margin) for one in samples]
    named = {f"{one.samples.metric} {one.samples.runtime}": one for one in found if one.scale != "exact"}
    guarded = {key: one.p for key, one in named.items() if _gated(one.samples, policy)}
    others = {key: one.p for key, one in named.items() if key not in guarded}
    adjusted = {**holm(guarded), **false_discovery(others)}
    return tuple(
        _change(
            one,
            definitions.get(one.samples.metric, {}),
            policy,
            adjusted.get(f"{one.samples.metric} {one.samples.runtime}"),
        )
        for one in found
    )


def _gated(samples: Samples, policy: Policy) -> bool:
    return policy.guards(samples.metric) and not samples.warn_only


def _estimate(samples: Samples, definition: Mapping[str, str], margin: float) -> _Found:
    better = definition.get("better", "neither")
    sign = -1.0 if better == "higher" else 1.0
    base, candidate = samples.base, samples.candidate
    if definition.get("assume") == "exact":
        apart = median(candidate) - median(base)
        exact = Estimate(apart, None, None, min(len(base), len(candidate)))
        return _Found(samples, "exact", exact, replace(exact, value=sign * apart), 0.0, 1.0)
    logs = all(value > 0 for value in (*base, *candidate))
    left = [math.log(value) for value in base] if logs else list(base)
    right = [math.log(value) for value in candidate] if logs else list(candidate)
    if samples.paired:
        apart_each = [after - before for before, after in zip(left, right, strict=True)]
        found, p = paired_difference(apart_each), signed_rank_p(apart_each)
    else:
        found, p = shift(left, right), rank_sum_p(left, right)
    limit = math.log1p(margin) if logs else margin * abs(median(base))
    shown = _exponent(found) if logs else found
    return _Found(samples, "ratio" if logs else "difference", shown, _oriented(found, sign), limit, p)


def _exponent(found: Estimate) -> Estimate:
    lo, hi = (None if bound is None else math.exp(bound) for bound in (found.lo, found.hi))
    return Estimate(math.exp(found.value), lo, hi, found.n)


def _oriented(found: Estimate, sign: float) -> Estimate:
    if found.lo is None or found.hi is None:
        return replace(found, value=sign * found.value)
    lo, hi = sorted((sign * found.lo, sign * found.hi))
    return Estimate(sign * found.value, lo, hi, found.n)


def _change(found: _Found, definition: Mapping[str, str], policy: Policy, p: float | None) -> Change:
    samples, better = found.samples, definition.get("better", "neither")
    if found.scale == "exact":
        verdict, reason = _exact_verdict(samples, found.worse.value, better)
    elif better == "neither":
        verdict, reason = "inconclusive", "neither more nor less of it is better: nothing to judge"
    else:
        verdict, reason = judge(found.worse, found.limit, 1.0 if p is None else p)
    shown = found.shown
    return Change(
        metric=samples.metric, runtime=samples.runtime, unit=definition.get("unit", ""), better=better,
        scale=found.scale, value=shown.value, lo=shown.lo, hi=shown.hi, n=shown.n, p=p,
        gated=_gated(samples, policy) and better != "neither", relative=samples.relative,
        verdict=verdict, reason=reason,
    )  # fmt: skip


def _exact_verdict(samples: Samples, worse: float, better: str) -> tuple[Verdict, str]:
    for name, values in (("base", samples.base), ("candidate", samples.candidate)):
        if len(set(values)) > 1:
            return "not-comparable", f"a property that varies inside the {name}: {min(values):g} to {max(values):g}"
    if worse == 0:
        return "equivalent", "the same"
    said = f"{samples.base[0]:g} became {samples.candidate[0]:g}"
    if better == "neither":
        return "inconclusive", f"{said}: neither more nor less of it is better"
    return ("regressed" if worse > 0 else "improved"), said


# -- what is compared -------------------------------------------------------------------------------------------------


def samples_of_runs(
    base: tuple[RunRecord, Sequence[TrialRecord]], candidate: tuple[RunRecord, Sequence[TrialRecord]]
) -> Iterator[Samples]:
    """Yield what two runs of one scenario have in common, each runtime relative to the control of its own blocks."""
    (old, old_trials), (new, new_trials) = base, candidate
    for metric, definition in new.metrics.items():
        exact = definition.get("assume") == "exact"
        controlled = not exact and new.control == old.control and _has_control(metric, base, candidate)
        both = [name for name in new.runtimes if name in old.runtimes]
        for runtime in both:
            relative = controlled and runtime != new.control
            sides = [
                _values(run, counted(trials), metric, runtime, relative=relative)
                for run, trials in ((old, old_trials), (new, new_trials))
            ]
            if all(sides):
                warn_only = controlled and not relative and len(both) > 1
                yield Samples(metric, runtime, sides[0], sides[1], paired=False, relative=relative, warn_only=warn_only)


def _has_control(metric: str, *sides: tuple[RunRecord, Sequence[TrialRecord]]) -> bool:
    """Return whether each control has this metric, above 0, so that others can be divided by it."""
    return all(any(_by_block(counted(trials), metric, run.control).values()) for run, trials in sides)


def _values(run: RunRecord, trials: Sequence[TrialRecord], metric: str, runtime: str, *, relative: bool) -> list[float]:
    own = _by_block(trials, metric, runtime)
    if not relative:
        return list(own.values())
    control = _by_block(trials, metric, run.control)
    return [value / control[block] for block, value in own.items() if control.get(block)]


def _by_block(trials: Sequence[TrialRecord], metric: str, runtime: str) -> dict[int, float]:
    return {
        trial.spec.block: float(trial.metrics[metric].value)
        for trial in trials
        if trial.spec.runtime == runtime and metric in trial.metrics
    }


def samples_of_pairs(
    trials: Sequence[TrialRecord], pairs: Mapping[str, str], metrics: Sequence[str]
) -> Iterator[Samples]:
    """Yield what two arms of one run have in common, block by block; `pairs` maps a candidate to its base."""
    kept = counted(trials)
    for metric in metrics:
        for runtime, base in pairs.items():
            ours, theirs = _by_block(kept, metric, runtime), _by_block(kept, metric, base)
            blocks = sorted(ours.keys() & theirs.keys())
            if blocks:
                yield Samples(metric, runtime, [theirs[b] for b in blocks], [ours[b] for b in blocks], paired=True)


def refusals(base: RunRecord, candidate: RunRecord) -> list[str]:
    """Return why two runs cannot be compared at all; empty where they can."""
    reasons = []
    if base.scenario_hash != candidate.scenario_hash:
        reasons.append("the scenarios differ in more than their seed")
    theirs, ours = (run.host.get("class") for run in (base, candidate))
    if theirs != ours:
        reasons.append(f"the hosts are of different classes: {theirs} and {ours}")
    if not set(base.runtimes) & set(candidate.runtimes):
        reasons.append("they have no runtime in common")
    return reasons


def redefined(base: RunRecord, candidate: RunRecord) -> set[str]:
    """Return metrics that are defined otherwise in the two runs: their numbers do not mean the same."""
    keys = ("unit", "better", "assume", "doc")
    both = base.metrics.keys() & candidate.metrics.keys()
    return {
        name for name in both if any(base.metrics[name].get(key) != candidate.metrics[name].get(key) for key in keys)
    }


def failure_changes(
    base: Sequence[TrialRecord], candidate: Sequence[TrialRecord], runtimes: Sequence[str]
) -> Iterator[Change]:
    """Yield whether each runtime fails more often than it did: where the Wilson intervals do not touch."""
    for runtime in runtimes:
        shares = [_failures(trials, runtime) for trials in (base, candidate)]
        if any(n == 0 for _, n in shares):
            continue
        (old, old_n), (new, new_n) = shares
        above = wilson_interval(new, new_n)[0] > wilson_interval(old, old_n)[1]
        yield Change(
            FAILURES, runtime, "ratio", "lower", "difference", new / new_n - old / old_n, None, None, min(old_n, new_n),
            None, gated=True, relative=False, verdict="regressed" if above else "equivalent",
            reason=f"{old} of {old_n} trials failed, now {new} of {new_n}",
        )  # fmt: skip


def _failures(trials: Sequence[TrialRecord], runtime: str) -> tuple[int, int]:
    own = [trial for trial in trials if trial.spec.runtime == runtime and not trial.spec.warmup]
    return sum(trial.status != "ok" for trial in own), len(own)

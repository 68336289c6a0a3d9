"""One decision out of many comparisons: arms of two revisions, and what fresh blocks make of a regression."""

from dataclasses import replace

import pytest

from harness.analysis.decision import Accepted, Decision, accept, compare_revisions, confirmed, suspects
from harness.analysis.gate import FAILURES, Change, Policy
from harness.model.records import base_name
from tests.example_run import example_run, example_trials

POLICY = Policy(("startup.ready",), 0.05)


def two_revisions(factor, blocks=15, failed=()):
    """Return a run whose VM is `factor` times as slow as at its base; all else is the same."""
    ours = []
    for trial in example_trials(blocks=blocks):
        value = trial.metrics.get("startup.ready")
        if trial.spec.runtime == "vm" and value is not None and not trial.spec.warmup:
            slow = replace(value, value=value.value * factor)
            trial = replace(trial, metrics={**trial.metrics, "startup.ready": slow})  # noqa: PLW2901
        ours.append(replace(trial, status="failed", metrics={}) if trial.spec.trial_id in failed else trial)
    theirs = [
        replace(trial, spec=replace(trial.spec, runtime=base_name(trial.spec.runtime)))
        for trial in example_trials(blocks=blocks)
    ]
    run = example_run()
    run = replace(run, runtimes=(*run.runtimes, *map(base_name, run.runtimes)),
                  base={"revision": "main", "commit": "0123456789"})  # fmt: skip
    return run, [*ours, *theirs]


def verdicts(decision):
    return {change.runtime: change.verdict for change in decision.changes if change.metric == "startup.ready"}


def test_each_arm_is_held_against_its_own_base():
    found = compare_revisions(*two_revisions(1.3), POLICY)
    assert found.base == "main (01234567)"
    assert verdicts(found) == {"process": "equivalent", "container": "equivalent", "vm": "regressed"}
    assert found.outcome == "regressed"
    assert [change.runtime for change in suspects(found)] == ["vm"]
    assert next(change for change in suspects(found)).value == pytest.approx(1.3)


def test_failures_of_an_arm_are_held_against_those_of_its_base():
    failed = {f"b{block:02}-vm" for block in range(1, 13)}
    found = compare_revisions(*two_revisions(1.0, failed=failed), POLICY)
    failures = {change.runtime: change.verdict for change in found.changes if change.metric == FAILURES}
    assert failures == {"process": "equivalent", "container": "equivalent", "vm": "regressed"}


def test_without_a_common_runtime_nothing_is_compared():
    run, trials = two_revisions(1.0)
    alone = replace(run, runtimes=("process", "vm"))
    assert compare_revisions(alone, trials, POLICY).outcome == "not-comparable"


@pytest.mark.parametrize(
    ("fresh", "outcome"),
    [(1.3, "regressed"), (1.07, "regressed"), (1.03, "inconclusive"), (1.0, "inconclusive"), (0.8, "inconclusive")],
)
def test_a_regression_stands_where_fresh_blocks_show_it(fresh, outcome):
    first, again = (compare_revisions(*two_revisions(factor), POLICY) for factor in (1.3, fresh))
    found = confirmed(first, again)
    assert found.outcome == outcome
    assert found.confirmation == again.candidate
    change = next(change for change in found.changes if (change.metric, change.runtime) == ("startup.ready", "vm"))
    assert ("but not confirmed by" in change.reason) == (outcome == "inconclusive")
    assert "15 fresh blocks" in change.reason


@pytest.mark.parametrize(
    ("better", "value", "lo", "hi", "stands"),
    [("lower", 1.08, 1.02, 1.2, True), ("lower", 1.04, 1.02, 1.2, False), ("higher", 0.9, 0.85, 0.98, True),
     ("higher", 0.97, 0.93, 0.99, False)],
)  # fmt: skip
def test_fresh_blocks_confirm_by_their_estimate(better, value, lo, hi, stands):
    red = Change("m", "vm", "ns", better, "ratio", 1.3, 1.2, 1.4, 15, 0.001, gated=True, relative=False,
                 verdict="regressed", reason="beyond")  # fmt: skip
    fresh = replace(red, value=value, lo=lo, hi=hi, n=10, verdict="worse-small")
    decisions = [Decision("revisions", "main", name, Policy(("m",), 0.05), (change,))
                 for name, change in (("first", red), ("second", fresh))]  # fmt: skip
    assert (confirmed(*decisions).outcome == "regressed") == stands


def test_what_fresh_blocks_did_not_measure_is_undecided():
    first = compare_revisions(*two_revisions(1.3), POLICY)
    assert confirmed(first, replace(first, changes=())).outcome == "inconclusive"


def test_what_is_accepted_needs_no_confirmation():
    found = compare_revisions(*two_revisions(1.3), POLICY)
    rule = Accepted("startup.*", "vm", "2026", "new firmware")
    assert suspects(accept(found, [rule], known=["2026-01"])) == ()

"""Verdicts: on estimates by hand, and on whole runs made up of known differences."""

import random
from dataclasses import replace

import pytest

from harness.analysis.gate import Policy, Samples, changes, failure_changes, judge, redefined, refusals, samples_of_runs
from harness.analysis.statistics import Estimate
from tests.example_run import example_run, example_trials

LOWER = {"unit": "ns", "better": "lower", "assume": "nothing"}
GUARDED = Policy(("startup.*",), 0.05)


@pytest.mark.parametrize(
    ("lo", "hi", "p", "verdict"),
    [
        (0.06, 0.12, 0.001, "regressed"),
        (0.06, 0.12, 0.2, "inconclusive"),  # the second gate: one of many comparisons
        (0.02, 0.12, 0.001, "worse-small"),
        (0.01, 0.04, 0.001, "equivalent"),  # surely worse, surely too little to matter
        (-0.04, 0.04, 0.9, "equivalent"),
        (-0.10, -0.01, 0.01, "improved"),
        (-0.10, 0.10, 0.9, "inconclusive"),
        (None, None, 0.001, "inconclusive"),
        (0.0, 0.0, 1.0, "equivalent"),
    ],
)
def test_judge(lo, hi, p, verdict):
    assert judge(Estimate(0.0, lo, hi, 12), 0.05, p)[0] == verdict


def series(factor, n=15, seed=1):
    chance = random.Random(seed)
    base = [1e6 * chance.lognormvariate(0, 0.03) for _ in range(n)]
    return base, [value * factor * chance.lognormvariate(0, 0.01) for value in base]


@pytest.mark.parametrize(("factor", "verdict"), [(1.15, "regressed"), (1.0, "equivalent"), (0.8, "improved")])
def test_pairs_of_one_run(factor, verdict):
    base, candidate = series(factor)
    (found,) = changes(
        {"startup.ready": LOWER}, [Samples("startup.ready", "vm", base, candidate, paired=True)], GUARDED
    )
    assert found.verdict == verdict
    assert found.lo < factor < found.hi
    assert found.gated


def test_higher_is_better_turns_the_verdict():
    base, candidate = series(1.15)
    (found,) = changes(
        {"startup.ready": {**LOWER, "better": "higher"}},
        [Samples("startup.ready", "vm", base, candidate, paired=True)],
        GUARDED,
    )
    assert found.verdict == "improved"
    assert found.value > 1


def test_many_guarded_comparisons_need_more_evidence():
    base, candidate = series(1.3, n=6)  # the smallest p of six pairs is 2 / 2^6: no family of two can pass
    one = [Samples("startup.ready", "vm", base, candidate, paired=True)]
    two = [*one, Samples("startup.ready", "container", *series(1.0, n=6, seed=5), paired=True)]
    assert changes({"startup.ready": LOWER}, one, GUARDED)[0].verdict == "regressed"
    assert changes({"startup.ready": LOWER}, two, GUARDED)[0].verdict == "inconclusive"


def test_zeros_are_compared_by_difference():
    samples = Samples("startup.ready", "vm", [0] * 8, [5, 6, 7, 5, 6, 7, 8, 9], paired=True)
    (found,) = changes({"startup.ready": LOWER}, [samples], GUARDED)
    assert (found.scale, found.verdict) == ("difference", "regressed")


@pytest.mark.parametrize(
    ("base", "candidate", "verdict"),
    [
        ([3, 3], [3, 3], "equivalent"),
        ([3, 3], [4, 4], "regressed"),
        ([3, 3], [2, 2], "improved"),
        ([3, 4], [3, 3], "not-comparable"),
    ],
)  # fmt: skip
def test_properties_have_no_statistics(base, candidate, verdict):
    exact = {**LOWER, "assume": "exact"}
    (found,) = changes({"x": exact}, [Samples("x", "vm", base, candidate, paired=False)], Policy(("x",)))
    assert (found.verdict, found.p) == (verdict, None)


def scaled(trials, runtime, factor):
    """Every start of one runtime made slower."""
    return [
        replace(
            trial,
            metrics={
                name: replace(value, value=value.value * factor) if name == "startup.ready" else value
                for name, value in trial.metrics.items()
            },
        )
        if runtime in {trial.spec.runtime, "all"}
        else trial
        for trial in trials
    ]


def test_a_slower_host_is_no_slower_runtime():
    run, trials = example_run(), example_trials(blocks=30)
    slow_host = list(samples_of_runs((run, trials), (run, scaled(trials, "all", 1.4))))
    verdicts = {
        c.runtime: c
        for c in changes(run.metrics, slow_host, Policy(("startup.*",), 0.1))
        if c.metric == "startup.ready"
    }
    assert verdicts["vm"].verdict == "equivalent"
    assert verdicts["vm"].relative
    assert verdicts["process"].value == pytest.approx(1.4)
    slow_vm = list(samples_of_runs((run, trials), (run, scaled(trials, "vm", 1.4))))
    verdicts = {
        c.runtime: c for c in changes(run.metrics, slow_vm, Policy(("startup.*",), 0.1)) if c.metric == "startup.ready"
    }
    assert verdicts["vm"].value == pytest.approx(1.4, rel=0.02)
    assert verdicts["container"].verdict == "equivalent"


def test_what_control_lacks_is_compared_as_it_is():
    run, trials = example_run(), example_trials()
    found = {(s.metric, s.runtime): s for s in samples_of_runs((run, trials), (run, trials))}
    assert not found["memory.guest_ram", "vm"].relative
    assert ("memory.guest_ram", "process") not in found


def test_runs_that_cannot_be_compared():
    run = example_run()
    assert refusals(run, run) == []
    other = replace(run, scenario_hash="f" * 64, host={**run.host, "class": "another"})
    assert len(refusals(run, other)) == 2
    metric = {**run.metrics["startup.ready"], "doc": "something else"}
    assert redefined(run, replace(run, metrics={**run.metrics, "startup.ready": metric})) == {"startup.ready"}


def test_failures_are_a_regression_only_beyond_chance():
    trials = [t for t in example_trials() if t.status == "ok"]
    broken = [replace(t, status="failed", error="x") if t.spec.runtime == "vm" else t for t in trials]
    verdicts = {c.runtime: c.verdict for c in failure_changes(trials, broken, ("vm", "container"))}
    assert verdicts == {"vm": "regressed", "container": "equivalent"}


def test_a_slower_control_is_told_but_never_red():
    run, trials = example_run(), example_trials(blocks=15)
    slow = [scaled([trial], "process", 3.0)[0] for trial in trials]
    found = {
        one.runtime: one
        for one in changes(run.metrics, list(samples_of_runs((run, trials), (run, slow))), GUARDED)
        if one.metric == "startup.ready"
    }
    assert (found["process"].verdict, found["process"].gated) == ("regressed", False)
    assert found["vm"].gated
    alone = example_run(runtimes=("process",))
    (control,) = (one for one in samples_of_runs((alone, trials), (alone, slow)) if one.metric == "startup.ready")
    assert not control.warn_only, "where it is all that there is, it is what is guarded"

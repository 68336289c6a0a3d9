"""The smallest change that a host can tell, from a run of a scenario against itself."""

import math
import random
from dataclasses import replace

import pytest

from harness.analysis.sensitivity import sensitivities, smallest_change
from harness.analysis.statistics import Estimate
from harness.model.records import base_name
from tests.example_run import example_run, example_trials


def test_by_hand():
    found = Estimate(1.0, 1 / 1.0980, 1.0980, 20)  # half-width 0.0935 on the log scale: 1.96 standard errors of 0.0477
    change = smallest_change(found, 20, 0.05)
    assert math.log1p(change) == pytest.approx(math.log(1.05) + 0.0935 + 1.0364 * 0.0477, abs=1e-4)
    assert smallest_change(found, 80, 0.05) < change < smallest_change(found, 5, 0.05)
    assert math.log1p(smallest_change(found, 80, 0.0)) == pytest.approx(math.log1p(smallest_change(found, 20, 0.0)) / 2)


def test_without_an_interval_nothing_is_promised():
    assert smallest_change(Estimate(1.0, None, None, 5), 30, 0.05) is None


def test_more_noise_hides_more():
    def found(sd):
        source = random.Random(1)
        trials = list(example_trials(blocks=20))
        for trial in example_trials(blocks=20):
            spec = replace(trial.spec, runtime=base_name(trial.spec.runtime))
            noise = math.exp(source.gauss(0, sd))
            metrics = {name: replace(one, value=one.value * noise) for name, one in trial.metrics.items()}
            trials.append(replace(trial, spec=spec, metrics=metrics))
        run = example_run()
        run = replace(run, runtimes=(*run.runtimes, *map(base_name, run.runtimes)))
        names = ["startup.ready", "isolation.kernel.shared"]
        return sensitivities(run, trials, names, margin=0.05, blocks=(10, 30))

    quiet, loud = found(0.02), found(0.2)
    assert list(quiet) == [f"startup.ready {name}" for name in ("process", "container", "vm")], "no property has noise"
    few, many = quiet["startup.ready vm"]
    assert (few.blocks, many.blocks) == (10, 30)
    assert (
        0
        < many.difference_ratio
        < many.smallest_ratio
        < few.smallest_ratio
        < loud["startup.ready vm"][0].smallest_ratio
    )

"""The order of a run: complete blocks, random, and the same again for the same seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.records import TrialSpec
from harness.model.scenario import Scenario
from harness.trials.planner import choose_seed, plan

KNOWN_ORDER = [
    ["container", "process", "vm"],
    ["container", "vm", "process"],
    ["vm", "process", "container"],
]


def scenario(runtimes=("process", "container", "vm"), low=3, high=5, warmup=1):
    return Scenario.model_validate(
        {
            "schema": "harness.scenario/1",
            "name": "a",
            "image": {"name": "busybox"},
            "workload": {"kind": "command"},
            "runtimes": {name: {"backend": f"backend-of-{name}"} for name in runtimes},
            "control": runtimes[0],
            "trials": {"blocks": {"min": low, "max": high}, "warmup": warmup},
            "metrics": ["startup"],
        }
    )


def order(trials):
    return [trial.runtime for trial in trials]


@given(st.integers(0, 2**63), st.integers(1, 6), st.integers(1, 12), st.integers(0, 3))
def test_every_block_starts_every_runtime_once(seed, count, blocks, warmup):
    names = tuple(f"r{number}" for number in range(count))
    made = plan(scenario(names, blocks, blocks, warmup), seed)
    assert len(made.trials) == (blocks + warmup) * count
    for block in range(made.block_count):
        trials = made.block_trials(block)
        assert Counter(order(trials)) == Counter(names)
        assert [trial.order for trial in trials] == list(range(count))
        assert {trial.block for trial in trials} == {block}


def test_warm_up_blocks_come_first_and_are_marked():
    made = plan(scenario(warmup=2), seed=1)
    assert [trial.warmup for trial in made.trials] == [True] * 6 + [False] * 15
    assert {trial.trial_id[:3] for trial in made.trials[:6]} == {"w00", "w01"}
    assert {trial.trial_id[:3] for trial in made.trials[6:9]} == {"b02"}


def test_trials_carry_runtime_and_backend():
    made = plan(scenario(("vm",), warmup=0), seed=1)
    assert made.block_trials(0) == (TrialSpec("b00-vm", 0, 0, "vm", "backend-of-vm", warmup=False),)


def test_trial_ids_are_unique():
    made = plan(scenario(low=150, high=150), seed=1)
    assert len({trial.trial_id for trial in made.trials}) == len(made.trials)
    assert made.trials[-1].trial_id.startswith("b150-")


@given(st.integers(0, 2**63), st.integers(0, 5))
def test_a_block_does_not_depend_on_how_many_there_are(seed, block):
    short, long = plan(scenario(low=1, high=5), seed), plan(scenario(low=1, high=50), seed)
    assert short.block_trials(block) == long.block_trials(block)


def test_the_order_is_the_same_in_every_version():
    """A resumed run must find the order that it began with, also after an upgrade of Python."""
    made = plan(scenario(), seed=7)
    assert [order(made.block_trials(block)) for block in range(3)] == KNOWN_ORDER


def test_each_seed_has_an_order_of_its_own():
    orders = {tuple(order(plan(scenario(low=5, high=5), seed).trials)) for seed in range(20)}
    assert len(orders) > 15


def test_places_are_balanced_over_many_blocks():
    """No runtime is first more often than chance allows: 3 runtimes, 900 blocks, 300 +- 5 standard deviations."""
    made = plan(scenario(low=900, high=900, warmup=0), seed=3)
    first = Counter(made.block_trials(block)[0].runtime for block in range(900))
    assert all(300 - 71 < count < 300 + 71 for count in first.values())


@pytest.mark.parametrize("block", [-1, 7])
def test_there_is_no_other_block(block):
    with pytest.raises(IndexError, match="the plan has 7"):
        plan(scenario(), seed=1).block_trials(block)


def test_chosen_seeds_can_be_typed_and_differ():
    seeds = {choose_seed() for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 1_000_000 for seed in seeds)


@pytest.mark.parametrize(("given", "extra"), [(None, 1), (0, 0), (4, 4)])
def test_extra_blocks_are_a_fifth_unless_the_scenario_says_otherwise(given, extra):
    one = scenario()
    trials = one.trials.model_copy(update={"blocks": one.trials.blocks.model_copy(update={"extra": given})})
    assert plan(one.model_copy(update={"trials": trials}), 7).extra_blocks == extra


def test_a_base_revision_runs_in_the_same_blocks_and_is_what_its_runtimes_are_compared_with():
    made = plan(scenario(), 7, {"vm@base": "libvirt", "process@base": "process"})
    assert sorted(spec.runtime for spec in made.block_trials(2)) == [
        "container", "process", "process@base", "vm", "vm@base",
    ]  # fmt: skip
    assert made.contrasts == (("process", "process@base"), ("vm", "vm@base"))
    assert plan(scenario(), 7).contrasts == (("container", "process"), ("vm", "process"))

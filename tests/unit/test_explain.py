"""What a lever is worth, and which levers are tried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import plugins
from harness.analysis.ablation import worths
from harness.cli import explain
from harness.errors import UsageError
from harness.model.records import MetricValue, TrialRecord, TrialSpec
from tests.example_run import example_run

MS = 1_000_000
BOOT = Path(__file__).parents[2] / "scenarios" / "boot.yaml"


def trial(runtime: str, block: int, kernel_ms: float, ready_ms: float) -> TrialRecord:
    marks = {"requested": 0, "vmm.exec": 50 * MS, "kernel": round(kernel_ms * MS), "ready": round(ready_ms * MS)}
    metrics = {"startup.ready": MetricValue(round(ready_ms * MS), "ns")}
    spec = TrialSpec(f"b{block}-{runtime}", block, 0, runtime, "libvirt")
    return TrialRecord(spec, "ok", "2026-01-01T00:00:00Z", marks=marks, metrics=metrics)


def test_a_lever_is_held_against_the_base_of_the_same_block() -> None:
    noise_ms = [0, 400, 30, 900, 10, 250, 70]
    records = [
        record
        for block, noise in enumerate(noise_ms)
        for record in (
            trial("vm", block, 300, 3000 + noise),
            trial("boot-bzimage", block, 900, 3600 + noise),
            trial("firmware-qboot", block, 230, 2930 + noise),
        )
    ]
    run = example_run(arms={"vm": {}, "boot-bzimage": {"changes": {"boot": "it is unpacked"}}, "firmware-qboot": {}})
    levers = {"boot-bzimage": "boot=bzimage", "firmware-qboot": "firmware=qboot"}
    found = worths(run, records, "vm", levers)
    assert [(worth.lever, worth.ready and worth.ready.value) for worth in found] == [
        ("firmware=qboot", -70 * MS),
        ("boot=bzimage", 600 * MS),
    ]
    assert found[1].phase is not None
    assert found[1].phase[1] == 600 * MS
    assert found[1].changes == ("it is unpacked",)
    assert all(worth.memory is None for worth in found)


def test_a_lever_that_never_got_ready_is_worth_nothing_known() -> None:
    records = [trial("vm", 0, 300, 3000)]
    assert worths(example_run(), records, "vm", {"x": "x=y"})[0].ready is None


@pytest.mark.parametrize("backend", sorted(explain.LEVERS))
def test_every_lever_that_is_tried_by_default_is_one(backend: str) -> None:
    model = plugins.load("backends", backend).options
    for lever in explain.LEVERS[backend]:
        key, _, value = lever.partition("=")
        changed = {"backend": backend, key: explain.parse(value, "").data}
        assert explain._not_a_lever(model, changed, model()) is None, lever


def test_arms_are_the_base_with_one_option_changed() -> None:
    base, arms = explain._plan(BOOT, "container", (), ())
    assert base == "container"
    assert set(arms) >= {"seccomp-unconfined", "cgroup-join-procs"}
    lever, runtime = arms["seccomp-unconfined"]
    assert lever == "seccomp=unconfined"
    assert json.loads(runtime) == {"backend": "builtin", "seccomp": "unconfined"}


def test_a_lever_that_the_base_has_already_is_left_out() -> None:
    _, arms = explain._plan(BOOT, "container", (), ("runtimes.container.seccomp=unconfined",))
    assert "seccomp-unconfined" not in arms


def test_names_of_arms_are_names_of_runtimes_and_differ() -> None:
    long = "cmdline=a_very_long_command_line=of the guest"
    first = explain._name(long, ())
    second = explain._name(long, (first,))
    assert first != second
    assert all(len(name) <= 24 and name.replace("-", "").isalnum() for name in (first, second))


def test_a_base_that_there_is_not_is_told() -> None:
    with pytest.raises(UsageError, match="no such runtime"):
        explain._plan(BOOT, "qemu", (), ())

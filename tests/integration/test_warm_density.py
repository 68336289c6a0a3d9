"""Prepared starts, and many at once, with real containers: what was prepared is what runs, and nothing of it stays."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.analysis import density as readings
from harness.backends import _warm, builtin
from harness.errors import AgentError, CapabilityError
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import ArmSpec, Instance, RunContext
from harness.model.milestones import EXEC, INIT, READY, REQUESTED
from harness.model.records import TrialSpec
from harness.model.scenario import Density
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
from harness.plugins import load
from harness.trials import ownership
from harness.trials.density import RampContender
from harness.trials.trial import run_trial

pytestmark = pytest.mark.needs("root", "overlayfs")
SECOND_NS = 10**9
SERVER = WorkloadSpec(
    ("httpd", "-f", "-p", "8080", "-h", "/etc"), {"PATH": "/bin"}, ready=Ready("http", port=8080, path="/passwd")
)


@pytest.fixture(scope="module")
def tree() -> RootTree:
    store = Store(data_dir() / "images")
    if "busybox:latest" not in store.names():
        bootstrap_busybox(store, cache_dir())
    return resolve_image(ImageRef("name", "busybox"), Path(), store)


@pytest.fixture
def context() -> Iterator[RunContext]:
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "warm")
    yield RunContext("warm", token, scratch, cache_dir())
    assert builtin.PLUGIN.reap(token, dry_run=True) == []
    ownership.reap(token, [builtin.PLUGIN], dry_run=False)


@pytest.fixture
def arm(tree: RootTree, context: RunContext, request: pytest.FixtureRequest) -> Iterator[_warm.Arm]:
    """The builtin runtime, prepared as the parameter says."""
    start = getattr(request, "param", "cold")
    spec = ArmSpec("box", tree, _warm.workload_for(start, SERVER), Limits(memory_bytes=64 << 20))
    made = builtin.PLUGIN.prepare(spec, builtin.Options(), context)
    try:
        with _warm.prepared(made, start, "box", 20 * SECOND_NS, context) as prepared:
            yield prepared
    finally:
        made.close()


def milestones(instance: Instance) -> list[str]:
    return [mark.milestone for mark in instance.marks]


@pytest.mark.parametrize("arm", ["warm"], indirect=True)
def test_a_held_container_runs_its_workload_when_it_is_told_to(arm: _warm.Arm) -> None:
    instance = arm.launch("b00-box")
    try:
        instance.wait(READY, time.monotonic_ns() + 20 * SECOND_NS)
        assert milestones(instance)[0] == REQUESTED
        assert EXEC in milestones(instance)
        assert INIT not in milestones(instance)  # it came before the clock
    finally:
        instance.stop(time.monotonic_ns() + 20 * SECOND_NS)


@pytest.mark.parametrize("arm", ["resumed"], indirect=True)
def test_a_frozen_container_is_ready_again_and_its_cost_before_is_told(arm: _warm.Arm, tmp_path: Path) -> None:
    spec = TrialSpec("b00-box", 0, 0, "box", "builtin")
    record = run_trial(
        arm, spec, [load("probes", "warm"), load("probes", "startup")], timeout_ns=20 * SECOND_NS, log_dir=tmp_path
    )
    assert record.error is None
    values = {name: value.value for name, value in record.metrics.items()}
    assert record.marks[READY] == values["startup.ready"] < values["warm.touch"]
    assert values["warm.held"] > 0
    assert values["warm.touched"] >= os.sysconf("SC_PAGE_SIZE")
    assert values["warm.prepare"] > values["startup.ready"]
    assert "no file" in record.absent["warm.disk"]


@pytest.mark.parametrize("arm", ["resumed"], indirect=True)
def test_an_interrupt_while_it_is_frozen_leaves_nothing(arm: _warm.Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_pids: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_warm, "read_sizes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arm.launch("b00-box")


def test_a_container_is_not_saved_and_says_what_it_has_instead(tree: RootTree, context: RunContext) -> None:
    made = builtin.PLUGIN.prepare(ArmSpec("box", tree, SERVER, Limits()), builtin.Options(), context)
    try:
        with (
            pytest.raises(CapabilityError, match="box: start: restored: only VMs"),
            _warm.prepared(made, "restored", "box", SECOND_NS, context),
        ):
            pass
    finally:
        made.close()


def test_a_server_that_has_died_while_nobody_looked_is_not_ready_again(arm: _warm.Arm) -> None:
    instance = arm.launch("b00-box")
    try:
        instance.wait(READY, time.monotonic_ns() + 20 * SECOND_NS)
        assert isinstance(instance, _warm.Preparable)
        instance.exec(["kill", "-9", "-1"], SECOND_NS)
        with pytest.raises(AgentError, match="not ready any more"):
            instance.again(time.monotonic_ns() + 20 * SECOND_NS)
    finally:
        instance.stop(time.monotonic_ns() + 20 * SECOND_NS)


def test_more_and_more_containers_are_read_and_all_removed(arm: _warm.Arm, tmp_path: Path) -> None:
    rule = Density.model_validate({"counts": [1, 2, 4], "settle": 0, "window": "50ms"})
    record = RampContender(arm, rule, 20 * SECOND_NS).run(
        TrialSpec("b00-box", 0, 0, "box", "builtin"), tmp_path, lambda _spec, _phase: None
    )
    assert record.error is None
    assert [level.n for level in record.levels] == [1, 2, 4]
    own = [value for _, value in readings.points(record.levels, "density.own")]
    assert own == sorted(own)
    assert 0 < record.metrics["memory.marginal"].value < 8 << 20
    assert record.attestation is not None

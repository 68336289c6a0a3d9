"""Prepared starts of a guest: held, paused, and saved to a file from which it begins again and again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backends import _warm, libvirt
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, RunContext
from harness.model.milestones import EXEC, KERNEL, READY, VMM_EXEC
from harness.model.records import TrialRecord, TrialSpec
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
from harness.plugins import load
from harness.trials import ownership
from harness.trials.trial import run_trial
from tests.vm._thorough import ON_REQUEST

pytestmark = pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs")
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
def arm(tree: RootTree, request: pytest.FixtureRequest) -> Iterator[Arm]:
    token = secrets.token_hex(4)
    context = RunContext("warm", token, ownership.claim(token, "warm"), cache_dir())
    spec = ArmSpec("vm", tree, _warm.workload_for(request.param, SERVER), Limits(memory_bytes=128 << 20))
    storage = "qcow2" if request.param == "restored-internal" else "raw"
    made = libvirt.PLUGIN.prepare(spec, libvirt.Options(accel="tcg", machine="microvm", storage=storage), context)
    try:
        with _warm.prepared(made, request.param, "vm", 120 * SECOND_NS, context) as prepared:
            yield prepared
    finally:
        made.close()
        assert libvirt.PLUGIN.reap(token, dry_run=True) == []
        ownership.reap(token, [libvirt.PLUGIN], dry_run=False)


def trial(arm: Arm, tmp_path: Path, number: int = 0) -> TrialRecord:
    """Return one trial with what the probes of a prepared start say."""
    spec = TrialSpec(f"b{number:02d}-vm", number, 0, "vm", "libvirt")
    record = run_trial(arm, spec, [load("probes", "warm")], timeout_ns=60 * SECOND_NS, log_dir=tmp_path)
    assert record.error is None
    assert record.attestation is not None
    assert record.metrics["warm.touch"].value > record.marks[READY]
    assert record.metrics["warm.touched"].value >= 4096
    return record


@pytest.mark.parametrize("arm", ["restored", pytest.param("restored-internal", marks=ON_REQUEST)], indirect=True)
def test_a_guest_begins_from_a_file_as_often_as_wanted(arm: Arm, tmp_path: Path) -> None:
    for number in range(2):
        record = trial(arm, tmp_path, number)
        assert VMM_EXEC in record.marks
        assert KERNEL not in record.marks  # nothing boots
        assert record.metrics["warm.disk"].value > 10 << 20
        assert record.metrics["warm.held"].value == 0
        assert record.marks[READY] < record.metrics["warm.prepare"].value


@pytest.mark.parametrize("arm", [pytest.param("resumed", marks=ON_REQUEST), "warm"], indirect=True)
def test_a_guest_waits_paused_or_held_and_keeps_its_memory(arm: Arm, tmp_path: Path) -> None:
    began_ns = time.monotonic_ns()
    record = trial(arm, tmp_path)
    assert (EXEC in record.marks) is (arm.facts["start"] == "warm")
    assert record.metrics["warm.held"].value > 50 << 20
    assert record.marks[READY] < record.metrics["warm.prepare"].value < time.monotonic_ns() - began_ns

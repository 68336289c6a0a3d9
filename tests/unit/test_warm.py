"""Prepared starts without a machine: what is shown of them, what they need, and that claims are not judged by them."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from harness.analysis.summary import analyse
from harness.backends import _warm
from harness.backends._vm_options import Options
from harness.interfaces import Before
from harness.model.milestones import DELETED, EXEC, INIT, READY, REQUESTED, Mark
from harness.model.spec import WorkloadSpec
from harness.plugins import load
from tests.example_run import example_run, example_trials
from tests.fakes import FakeArm, FakeInstance


@dataclass
class Standing(FakeInstance):
    """One that can be paused, and is ready again at a moment of its own."""

    def pause(self, deadline_ns):
        self.log.append("pause")

    def resume(self):
        self.log.append("resume")

    def go(self, deadline_ns):
        self.log.append("go")

    def again(self, deadline_ns):
        self.log.append("again")
        return Mark("cal", self.marks[-1].at_ns + 10**12)

    def touch(self, deadline_ns):
        return 8192


def test_marks_from_before_the_request_are_not_shown_and_it_is_ready_again():
    inner = Standing()
    inner.marks += [Mark(INIT, 2000), Mark(READY, 3000)]
    woken = _warm.Woken(inner, 5000, Before("resumed", 1), again=True)
    assert [mark.milestone for mark in woken.marks] == [REQUESTED]
    assert woken.wait(READY, 0) is woken.wait(READY, 0)
    assert inner.log == ["again"]
    woken.stop(0)
    assert [mark.milestone for mark in woken.marks] == [REQUESTED, "stopping", DELETED, READY]


def test_a_held_one_has_the_marks_of_its_workload():
    inner = Standing()
    inner.marks += [Mark(INIT, 2000), Mark(EXEC, 6000), Mark(READY, 7000)]
    woken = _warm.Woken(inner, 5000, Before("warm", 1), again=False)
    assert [(mark.milestone, mark.at_ns) for mark in woken.marks] == [(REQUESTED, 5000), (EXEC, 6000), (READY, 7000)]


@pytest.mark.parametrize(
    ("start", "asked"), [("warm", ["wait init", "go"]), ("resumed", ["wait ready", "pause", "resume"])]
)
def test_an_instance_waits_before_it_is_asked_for(start, asked):
    inner = Standing()
    context = SimpleNamespace(work=None)
    with _warm.prepared(FakeArm(lambda _name: inner), start, "vm", 10**9, context) as arm:
        arm.launch("b00-vm")
    assert inner.log == asked
    assert arm.facts["start"] == start


def test_only_a_warm_start_holds_the_workload():
    workload = WorkloadSpec(("/bin/true",))
    assert _warm.workload_for("warm", workload).hold
    assert _warm.workload_for("resumed", workload) is workload


@pytest.mark.parametrize(
    ("start", "backend", "options", "reason"),
    [
        ("resumed", "builtin", None, None),
        ("restored", "libvirt", Options(), None),
        ("restored", "builtin", None, "only VMs"),
        ("restored", "libvirt", Options(uri="qemu:///system"), "daemon"),
        ("restored-internal", "libvirt", Options(), "no qcow2"),
        ("restored-internal", "libvirt", Options(storage="qcow2"), None),
        ("restored-external", "libvirt", Options(storage="qcow2"), "written to"),
    ],
)
def test_what_a_start_needs_is_said_before_anything_is_made(start, backend, options, reason):
    found = _warm.needs(start, backend, options)
    assert bool(found) is (reason is not None)
    assert all(reason in need.reason and not need.available for need in found)


def test_of_a_cold_start_only_the_touching_is_told():
    found = {}
    instance = Standing()
    instance.marks.append(Mark(READY, 3000))
    with load("probes", "warm").watch(instance, lambda item: found.update({item.metric.name: item})):
        pass
    assert found["warm.touched"].value == 8192
    assert found["warm.touch"].value >= 2000
    assert "cold" in found["warm.held"].reason


def test_claims_are_not_judged_by_starts_that_were_prepared():
    run = example_run()
    prepared = {name: {**facts, "start": "resumed"} if facts.get("boundary") == "vm" else facts
                for name, facts in run.arms.items()}  # fmt: skip
    trials = example_trials()
    assert any(claim.measured_vm for claim in analyse(run, trials).claims)
    assert not any("vm" in claim.measured_vm for claim in analyse(replace(run, arms=prepared), trials).claims)

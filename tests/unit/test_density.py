"""Trials of many instances: how far they go, what they say, and that nothing of them stays."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.analysis import density as metrics
from harness.analysis.summary import analyse
from harness.errors import TrialError
from harness.host import memory as host
from harness.interfaces import CgroupMemory
from harness.model.records import Level, MetricValue, TrialRecord, TrialSpec
from harness.model.scenario import Density
from harness.plugins import load
from harness.report import _density
from harness.results.codec import parse_trial, trial_line
from harness.trials import density
from harness.trials.density import RampContender
from tests.example_run import example_run
from tests.fakes import FakeArm, FakeInstance

MIB = 1 << 20
CHARGED = CgroupMemory(8 * MIB, 7 * MIB, 2 * MIB, None, None, shmem_bytes=MIB)
SPEC = TrialSpec("b00-vm", 0, 0, "vm", "libvirt")


@pytest.fixture
def fake_host(monkeypatch):
    """Instances of 10 MiB and a hundredth of a core each, by their pids; time does not pass."""
    seen = SimpleNamespace(running=[], slept=0, waited_us=0)

    def read_sizes(pids):
        return host.Sizes(10 * MIB * len(pids), 10 * MIB * len(pids), 8 * MIB * len(pids))

    def sleep(seconds):
        seen.slept += int(seconds * 1e9)

    monkeypatch.setattr(host, "read_sizes", read_sizes)
    monkeypatch.setattr(host, "cpu_ns", lambda pids: seen.slept * len(pids) // 100)
    monkeypatch.setattr(host, "host_cpu_ns", lambda: seen.slept)
    monkeypatch.setattr(host, "ksm_saved_bytes", lambda: None)
    monkeypatch.setattr(host, "waiting_for_memory_us", lambda: seen.waited_us)
    monkeypatch.setattr(
        host, "read_host", lambda: host.HostMemory(1 << 40, 1 << 30, 100 * MIB + 12 * MIB * len(seen.running), 0)
    )
    fake_time = SimpleNamespace(sleep=sleep, monotonic_ns=lambda: seen.slept)
    monkeypatch.setattr(density, "time", fake_time)
    return seen


def arm(seen, fails_at=None):
    made = []

    def make(trial_id):
        made.append(
            FakeInstance(
                ready_ns=None if len(made) == fails_at else 5_000_000, own_pids=(len(made) + 1,), charged=CHARGED
            )
        )
        seen.running.append(trial_id)
        return made[-1]

    return FakeArm(make, "tcg"), made


def ramp(an_arm, tmp_path: Path, **rule) -> TrialRecord:
    contender = RampContender(an_arm, Density.model_validate(rule), 10**9)
    return contender.run(SPEC, tmp_path, lambda _spec, _phase: None)


def test_each_number_is_read_and_the_slopes_are_those_of_one_more(fake_host, tmp_path):
    made_by, made = arm(fake_host)
    record = ramp(made_by, tmp_path, counts=[1, 2, 4])
    assert [level.n for level in record.levels] == [1, 2, 4]
    assert record.levels[2].metrics["density.pss"].value == 40 * MIB
    assert record.levels[2].metrics["density.ready"].value == 5_000_000
    assert "density.cgroup" not in record.levels[0].metrics
    values = {name: value.value for name, value in record.metrics.items()}
    assert values["memory.marginal"] == 11 * MIB  # anonymous, tmpfs and kernel memory, not the page cache
    assert (values["memory.marginal.host"], values["memory.marginal.pss"]) == (12 * MIB, 10 * MIB)
    assert values["cpu.marginal"] == pytest.approx(0.01)
    assert values["density.instances"] == 4
    assert record.metrics["density.instances"].labels == {"stopped by": "all that were planned"}
    assert "fewer than two" in record.absent["memory.marginal.cgroup"]
    assert record.attestation is not None
    assert all(instance.log[-1] == "stop" for instance in made)
    assert made_by.launched == ["b00-vm-000", "b00-vm-001", "b00-vm-002", "b00-vm-003"]


def test_the_memory_budget_ends_a_trial_between_two_numbers_and_what_there_is_counts(fake_host, tmp_path):
    record = ramp(arm(fake_host)[0], tmp_path, counts=[1, 2, 8], budget="35MiB")
    assert [level.n for level in record.levels] == [1, 2, 3]
    assert record.metrics["density.instances"].labels["stopped by"].startswith("memory budget: 3 take 30.0 MiB of")


def test_an_instance_that_does_not_get_ready_ends_a_trial_and_is_stopped(fake_host, tmp_path):
    made_by, made = arm(fake_host, fails_at=2)
    record = ramp(made_by, tmp_path, counts=[1, 4])
    assert record.status == "ok"
    assert [level.n for level in record.levels] == [1, 2]
    assert (
        "instance 3 did not get ready: ready: not reached" in record.metrics["density.instances"].labels["stopped by"]
    )
    assert all("stop" in instance.log for instance in made)
    assert (tmp_path / "b00-vm-002" / "stderr.log").exists()


def test_the_first_one_that_does_not_get_ready_fails_the_trial(fake_host, tmp_path):
    record = ramp(arm(fake_host, fails_at=0)[0], tmp_path, counts=[1, 2])
    assert (record.status, record.levels) == ("timeout", ())
    assert "the trial failed" in record.absent["memory.marginal"]


def test_waiting_for_memory_ends_a_trial(fake_host, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "waiting_for_memory_us", lambda: fake_host.slept // 2000)
    record = ramp(arm(fake_host)[0], tmp_path, counts=[1, 2])
    assert record.metrics["density.instances"].labels["stopped by"] == "memory pressure: tasks waited 50% of the time"


def test_one_that_ended_by_itself_is_not_counted_as_small(fake_host, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "read_sizes", lambda pids: host.Sizes(rss=0 if 2 in pids else 1))
    record = ramp(arm(fake_host)[0], tmp_path, counts=[1, 2])
    assert [level.n for level in record.levels] == [1]
    assert record.metrics["density.instances"].labels["stopped by"] == "instance 2 of 2 has ended by itself"


def test_one_that_cannot_be_stopped_fails_the_trial(fake_host, tmp_path):
    made_by, made = arm(fake_host)
    contender = RampContender(made_by, Density.model_validate({"counts": [1, 2]}), 10**9)
    original = made_by.make

    def make(trial_id):
        instance = original(trial_id)
        instance.stop_error = TrialError("still there")
        return instance

    made_by.make = make
    record = contender.run(SPEC, tmp_path, lambda _spec, _phase: None)
    assert (record.status, record.error.split(" | ")[0]) == ("failed", "still there")
    assert len(record.levels) == len(made) == 2


def test_a_reading_that_was_disturbed_does_not_move_the_line():
    found = metrics.line([(1, 10.0), (2, 20.0), (4, 40.0), (8, 80.0), (16, 1000.0)])
    assert found.slope == pytest.approx(10, abs=0.01)
    assert found.at(3) == pytest.approx(30, abs=0.1)
    assert metrics.line([(2, 1.0), (2, 3.0)]) is None


def records():
    def trial(block, runtime, warmup, value):
        level = Level(2, {"density.pss": MetricValue(value, "bytes")})
        spec = TrialSpec(f"b{block}-{runtime}", block, 0, runtime, "x", warmup)
        return TrialRecord(spec, "ok", "2026-01-01T00:00:00Z", levels=(level,))

    return [trial(0, "vm", True, 5), trial(1, "vm", False, 7), trial(2, "vm", False, 9), trial(1, "box", False, 1)]


def test_levels_survive_the_journal_and_become_rows_and_steps():
    again = [parse_trial(trial_line(record), "here") for record in records()]
    assert again == records()
    first = next(iter(metrics.rows(again)))
    assert first == {"runtime": "vm", "block": 0, "warmup": True, "status": "ok", "accelerator": None, "n": 2,
                     "metric": "density.pss", "value": 5, "unit": "bytes"}  # fmt: skip
    steps = [
        (step.runtime, step.n, step.estimate.value, step.estimate.n) for step in metrics.steps(again, "density.pss")
    ]
    assert steps == [("vm", 2, 8.0, 2), ("box", 2, 1, 1)]


def test_what_the_host_has_less_is_their_own_and_what_is_left_unexplained():
    values = {"density.host": MetricValue(30, "bytes"), "density.own": MetricValue(22, "bytes")}
    (step,) = metrics.steps([replace(records()[1], levels=(Level(2, values),))], "density.unexplained")
    assert (step.n, step.estimate.value, step.unit) == (2, 8, "bytes")
    assert metrics.steps(records(), "density.unexplained") == [], "PSS alone explains nothing"


def test_the_report_shows_what_there_was_at_each_number_and_why_a_trial_ended(fake_host, tmp_path):
    full = ramp(arm(fake_host)[0], tmp_path, counts=[1, 2])
    cut = ramp(arm(fake_host)[0], tmp_path, counts=[1, 4], budget="15MiB")
    report = analyse(example_run(runtimes=("vm",), control="vm"), [full, cut])
    head, *lines = _density.matrix(report)
    assert head == ["instances", "own", "PSS", "whole host", "unexplained", "CPU", "last one ready"]
    assert [line[:3] for line in lines] == [
        ["1 x vm (tcg)", "11.0 MiB", "10.0 MiB"],
        ["2 x vm (tcg)", "22.0 MiB", "20.0 MiB"],
    ]
    assert _density.endings(report) == ["vm (tcg): 1 at most: memory budget: 1 take 10.0 MiB of 15.0 MiB"]
    assert "## By number of instances" in load("report", "markdown").render(report)
    assert lines_of_picture(load("report", "markdown").render(report)) == [
        "1 x vm (tcg) |#################### 11.0 MiB",
        "2 x vm (tcg) |######################################## 22.0 MiB",
    ]
    assert '<h2 id="numbers">' in load("report", "html").render(report)


def lines_of_picture(text: str) -> list[str]:
    return text.split("```")[1].strip().splitlines()

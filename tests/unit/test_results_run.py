"""From the runner through the journal to the report: the seams of a whole run, with starts that take no time."""

from dataclasses import replace

import pytest

from harness.analysis.summary import analyse
from harness.errors import TrialTimeout
from harness.model.milestones import STOPPING
from harness.probes.startup import PLUGIN as STARTUP
from harness.results.store import RunDirectory
from harness.trials.planner import Plan
from harness.trials.runner import Bench, Stopping, measure
from harness.trials.trial import RuntimeContender
from tests.example_run import example_run
from tests.fakes import FakeArm, FakeInstance

PLAN = Plan("s", 7, "process", (("process", "fake"), ("vm", "fake")), warmup_blocks=1, min_blocks=7, max_blocks=9)
READY_NS = {"process": 1_000_000, "vm": 40_000_000}


class Silent:
    def phase(self, spec, phase):
        pass

    def finished(self, record, done, total):
        pass


class KilledIn:
    """Ends the harness when a trial begins, as Ctrl-C does."""

    def __init__(self, trial_id):
        self.trial_id = trial_id

    def phase(self, spec, phase):
        if spec.trial_id == self.trial_id:
            raise KeyboardInterrupt

    def finished(self, record, done, total):
        pass


def start(runtime):
    def make(trial_id):
        if trial_id == "b03-vm":
            raise TrialTimeout("ready: not reached in time")
        return FakeInstance(ready_ns=READY_NS[runtime], boundary="process" if runtime == "process" else "vm")

    return FakeArm(make)


def bench(directory, observer):
    contenders = {runtime: RuntimeContender(start(runtime), (STARTUP,), 10**9) for runtime in READY_NS}
    return Bench(contenders, directory, observer)


def test_a_run_that_is_interrupted_resumed_and_reported(tmp_path):
    metrics = {metric.name: {"unit": metric.unit.value, "better": metric.better.value} for metric in STARTUP.metrics}
    run = example_run(runtimes=("process", "vm"), metrics=metrics)
    directory = RunDirectory.create(tmp_path, replace(run, status="running"), "", {})
    stopping = Stopping(("startup.ready",), 0.05, 0.05)
    with pytest.raises(KeyboardInterrupt):
        measure(PLAN, bench(directory, KilledIn("b04-vm")), stopping)
    directory.close()
    again = RunDirectory.open(directory.path)
    before = len(again.trials())
    assert 0 < before < len(PLAN.trials)
    reason = measure(PLAN, bench(again, Silent()), stopping, again.trials())
    assert reason == "every contrast is decided after 7 blocks"
    assert len({record.spec.trial_id for record in again.trials()}) == len(again.trials()) == 16

    report = analyse(run, again.trials())
    cell = report.cell("startup.ready", "vm")
    assert (cell.n, cell.median) == (6, 40_000_000)
    assert cell.effect.value == pytest.approx(40)
    assert [failure.trial_id for failure in report.failures] == ["b03-vm"]
    assert report.identity.identical
    assert all(record.marks[STOPPING] > 0 for record in again.trials() if record.status == "ok")

"""The order of a trial's steps, and that whatever happens becomes a record."""

from pathlib import Path

import pytest

from harness.errors import AgentError, BackendError, TrialError
from harness.model.metrics import Better, Measurement, Metric, Unit
from harness.model.milestones import Mark
from harness.model.records import TrialSpec
from harness.trials.reported import probes_with
from harness.trials.trial import run_trial
from tests.fakes import ATTESTATION, CountingProbe, FakeArm, FakeInstance

SPEC = TrialSpec("b01-vm", 1, 0, "vm", "fake")


def trial(instance: FakeInstance, logs: Path, probes: list[CountingProbe] | None = None):
    arm = FakeArm(lambda _id: instance)
    return run_trial(arm, SPEC, [CountingProbe()] if probes is None else probes, timeout_ns=10**9, log_dir=logs)


def test_the_steps_come_in_order(tmp_path: Path) -> None:
    instance = FakeInstance()
    record = trial(instance, tmp_path)
    assert instance.log == ["wait ready", "watch", "unwatch", "attest", "stop", "conclude"]
    assert record.status == "ok"
    assert record.attestation == ATTESTATION


def test_marks_count_from_requested(tmp_path: Path) -> None:
    record = trial(FakeInstance(ready_ns=77), tmp_path)
    assert (record.marks["requested"], record.marks["ready"]) == (0, 77)


def test_a_time_out_is_a_record_with_what_was_measured_and_the_end_of_stderr(tmp_path: Path) -> None:
    record = trial(FakeInstance(ready_ns=None), tmp_path)
    assert record.status == "timeout"
    assert record.error == "ready: not reached in time; last: requested | stderr: last words"
    assert record.metrics["fake.length"].value == 3
    assert (tmp_path / "stderr.log").read_bytes() == b"first\nlast words\n"


def test_a_failed_launch_has_every_metric_absent_with_the_reason(tmp_path: Path) -> None:
    def fail(_id: str) -> FakeInstance:
        raise BackendError("libvirt: the domain did not start: no space")

    record = run_trial(FakeArm(fail), SPEC, [CountingProbe()], timeout_ns=1, log_dir=tmp_path)
    assert (record.status, record.error) == ("failed", "libvirt: the domain did not start: no space")
    assert record.absent == {"fake.length": "not measured: the trial failed before"}


def test_what_became_of_it_and_what_helps_are_in_the_record(tmp_path: Path) -> None:
    class Panicked(FakeInstance):
        def wait(self, milestone, deadline_ns):
            raise AgentError("guest: kernel panic: x", hint="raise limits.memory", ending="guest-panic")

        def console(self):
            return b"Kernel panic - not syncing: x"

    record = trial(Panicked(), tmp_path)
    assert record.ending == "guest-panic"
    assert record.error == "guest: kernel panic: x (raise limits.memory) | stderr: last words"
    assert (tmp_path / "console.log").exists()


def test_a_full_disk_is_told_by_the_line_that_says_so(tmp_path: Path) -> None:
    class Full(FakeInstance):
        def wait(self, milestone, deadline_ns):
            raise AgentError("workload: ended with code 1 before it was ready", ending="workload-ended")

        def output(self):
            return b"", b"writing\ndd: error writing '/big': No space left on device\n0+0 records out\n"

        def console(self):
            return b"[1.0] Key type registered"

    record = trial(Full(), tmp_path)
    assert record.ending == "disk-full"
    assert record.error is not None
    assert record.error.startswith("workload: ended with code 1 before it was ready (more room: limits.memory")
    assert record.error.endswith("| stderr: dd: error writing '/big': No space left on device")


def test_an_instance_that_does_not_stop_cleanly_fails_its_trial(tmp_path: Path) -> None:
    record = trial(FakeInstance(stop_error=TrialError("output: incomplete")), tmp_path)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith("output: incomplete")


def test_an_interrupt_stops_the_instance_and_goes_on_up(tmp_path: Path) -> None:
    class Interrupting(FakeInstance):
        def wait(self, milestone, deadline_ns):
            raise KeyboardInterrupt

    instance = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        trial(instance, tmp_path)
    assert "stop" in instance.log


def test_a_metric_that_is_told_twice_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="emitted twice"):
        trial(FakeInstance(), tmp_path, [CountingProbe(), CountingProbe()])


def test_a_metric_that_no_probe_told_is_absent_not_zero(tmp_path: Path) -> None:
    class Silent(CountingProbe):
        def conclude(self, instance, emit):
            pass

    record = trial(FakeInstance(), tmp_path, [Silent()])
    assert record.metrics == {}
    assert record.absent == {"fake.length": "the probe did not tell"}


def test_a_server_that_dies_once_it_was_ready_is_a_failed_trial(tmp_path: Path) -> None:
    class Dying(FakeInstance):
        def wait(self, milestone, deadline_ns):
            ready = super().wait(milestone, deadline_ns)
            self.marks.append(Mark("exited", ready.at_ns + 2_000_000, "1"))
            return ready

    record = trial(Dying(), tmp_path)
    assert record.status == "failed"
    assert record.error == "workload: ended with code 1, 2.00 ms after it was ready | stderr: last words"


def test_what_ends_because_it_is_stopped_is_no_failure(tmp_path: Path) -> None:
    class Stopped(FakeInstance):
        def stop(self, deadline_ns):
            super().stop(deadline_ns)
            self.marks.append(Mark("exited", 10**9 + 100, "137"))

    assert trial(Stopped(), tmp_path).status == "ok"


def test_a_panicking_guest_is_explained_by_its_panic_not_by_the_last_line(tmp_path: Path) -> None:
    console = b"[1.0] Kernel panic - not syncing: System is deadlocked on memory\n[1.1] ---[ end ]---\n"

    class Panicking(FakeInstance):
        def output(self):
            return b"", b""

        def console(self):
            return console + b"x" * 3000

    record = trial(Panicking(ready_ns=None), tmp_path)
    assert record.error is not None
    assert record.error.endswith(
        "console: Kernel panic - not syncing: System is deadlocked on memory (raise limits.memory)"
    )


class Talking:
    """A workload that reports one number of its own; it prints `done N`."""

    name = "talking"
    doc = "for tests"
    options = None
    metrics = (Metric("talking.words", Unit.COUNT, Better.HIGHER, "words said"),)

    def compile(self, options, image):
        raise AssertionError("not asked")

    def parse(self, stdout, stderr):
        if not stdout.startswith(b"done "):
            raise ValueError("no `done N`")
        return [Measurement(self.metrics[0], int(stdout.split()[1]))]


class Saying(FakeInstance):
    said = b"done 7\n"

    def output(self):
        return self.said, b"about to end\n"


def test_what_the_workload_reports_is_recorded_like_what_a_probe_measured(tmp_path: Path) -> None:
    record = trial(Saying(), tmp_path, probes_with(Talking(), (CountingProbe(),)))
    assert (record.status, record.metrics["talking.words"].value) == ("ok", 7)
    assert record.metrics["talking.words"].unit == "count"


def test_an_output_that_does_not_show_the_work_fails_the_trial_and_keeps_what_probes_measured(tmp_path: Path) -> None:
    instance = Saying()
    instance.said = b"interrupted\n"
    record = trial(instance, tmp_path, probes_with(Talking(), (CountingProbe(),)))
    assert record.status == "failed"
    assert record.error == (
        "workload: talking: its output does not show the work done: no `done N` | stderr: about to end"
    )
    assert "fake.length" in record.metrics
    assert record.absent == {"talking.words": "not measured: the trial failed before"}


def test_a_workload_without_metrics_adds_no_probe() -> None:
    class Silent(Talking):
        metrics = ()

    assert probes_with(Silent(), ()) == ()

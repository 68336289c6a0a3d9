"""One trial from `requested` to `deleted`: the only place that knows the order of its steps."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError, TrialError
from harness.host.noise import Sampler
from harness.interfaces import Arm, Instance, Probe
from harness.model.milestones import EXITED, READY, REQUESTED, STOPPING
from harness.model.records import TrialRecord, TrialSpec
from harness.model.units import format_ns
from harness.trials.ledger import STREAMS, Ledger, Outcome, Progress, now, say_nothing

STOP_NS = 30_000_000_000
ATTEST_NS = 120_000_000_000
_PANIC, _NO_ROOM = b"Kernel panic", b"No space left on device"
_ROOM_HINT = "more room: limits.memory where the writable layer is a tmpfs, storage:, or the size of the volume"


@dataclass(frozen=True, slots=True)
class RuntimeContender:
    """One prepared runtime, started once a trial and watched by the probes."""

    arm: Arm
    probes: Sequence[Probe]
    timeout_ns: int

    def run(self, spec: TrialSpec, log_dir: Path, progress: Progress) -> TrialRecord:
        """Return the record of one start, see `run_trial`."""
        return run_trial(self.arm, spec, self.probes, timeout_ns=self.timeout_ns, log_dir=log_dir, progress=progress)


def run_trial(
    arm: Arm,
    spec: TrialSpec,
    probes: Sequence[Probe],
    *,
    timeout_ns: int,
    log_dir: Path,
    progress: Progress = say_nothing,
) -> TrialRecord:
    """Start, wait until ready, watch, attest, stop; return the record whatever happened.

    A TrialError becomes a record with its reason and everything measured before. Anything else (Ctrl-C, a bug) stops
    the instance and goes on up. Raises: StoreError when its logs cannot be written.
    """
    ledger, outcome = Ledger(), Outcome()
    started, sampler = now(), Sampler()
    marks: Mapping[str, int] = {}
    progress(spec, "starting")
    instance: Instance | None = None
    try:
        instance = launch(arm, spec.trial_id, timeout_ns)
        progress(spec, "ready")
        _observe(instance, probes, ledger, outcome)
    except NotReady as failure:
        instance = failure.instance
        outcome.fail(failure.error)
    except TrialError as error:
        outcome.fail(error)
    except BaseException:
        if instance is not None:
            abandon(instance)
        raise
    if instance is not None:
        progress(spec, "stopping")
        marks = _finish(instance, probes, ledger, outcome, log_dir)
    ledger.complete(
        [metric for probe in probes for metric in probe.metrics],
        "not measured: the trial failed before" if outcome.status != "ok" else "the probe did not tell",
    )
    return TrialRecord(
        spec=spec,
        status=outcome.status,
        started=started,
        error=outcome.error,
        ending=outcome.ending,
        accelerator=arm.accelerator,
        marks=marks,
        metrics=ledger.values,
        absent=ledger.absent,
        attestation=outcome.attestation,
        noise=sampler.finish(),
    )


class NotReady(Exception):
    """Carries a launched instance out of a failed wait, so that it is stopped and its output kept."""

    def __init__(self, instance: Instance, error: TrialError) -> None:
        super().__init__(error.message)
        self.instance = instance
        self.error = error


def launch(arm: Arm, trial_id: str, timeout_ns: int) -> Instance:
    """Return a ready instance. Raises: NotReady with one that did not get ready, TrialError where there is none.

    This is the timed path. The garbage collector waits: a full collection takes longer than a container's start."""
    gc.collect()
    gc.disable()
    instance: Instance | None = None
    try:
        deadline_ns = time.monotonic_ns() + timeout_ns
        instance = arm.launch(trial_id)
        instance.wait("ready", deadline_ns)
    except TrialError as error:
        if instance is None:
            raise
        raise NotReady(instance, error) from error
    except BaseException:
        if instance is not None:
            abandon(instance)
        raise
    finally:
        gc.enable()
    return instance


def abandon(instance: Instance) -> None:
    """End it at once, without a talk: a request may have been interrupted, and its answer may still come.

    What cannot be removed here is found by its name when the run ends; the interrupt must not be hidden by it.
    """
    with contextlib.suppress(TrialError, ValueError):  # ValueError: that late answer, taken for another one
        instance.stop(time.monotonic_ns())


def _observe(instance: Instance, probes: Sequence[Probe], ledger: Ledger, outcome: Outcome) -> None:
    with contextlib.ExitStack() as watches:
        for probe in probes:
            watches.enter_context(probe.watch(instance, ledger.emit))
    outcome.attestation = instance.attest(time.monotonic_ns() + ATTEST_NS)


def _finish(
    instance: Instance, probes: Sequence[Probe], ledger: Ledger, outcome: Outcome, log_dir: Path
) -> Mapping[str, int]:
    """Stop, let the probes conclude, keep the logs; return the marks in ns since `requested`."""
    try:
        instance.stop(time.monotonic_ns() + STOP_NS)
    except TrialError as error:
        outcome.fail(error)
    _refuse_death_after_ready(instance, outcome)
    for probe in probes:
        try:
            probe.conclude(instance, ledger.emit)
        except TrialError as error:
            outcome.fail(error)
    keep_logs(instance, outcome, log_dir)
    requested_ns = next(mark.at_ns for mark in instance.marks if mark.milestone == REQUESTED)
    first = {
        mark.milestone: mark.at_ns - requested_ns for mark in reversed(instance.marks) if mark.milestone != "error"
    }
    return dict(sorted(first.items(), key=lambda item: item[1]))


def _refuse_death_after_ready(instance: Instance, outcome: Outcome) -> None:
    """A server that dies once it was ready was not there any more when memory and isolation were read."""
    seen = {mark.milestone: mark for mark in reversed(instance.marks)}
    ended, stopping, ready = seen.get(EXITED), seen.get(STOPPING), seen.get(READY)
    if ended is None or ready is None or (stopping is not None and ended.at_ns > stopping.at_ns):
        return
    if ended.detail not in {"", "0"}:
        after = format_ns(max(0, ended.at_ns - ready.at_ns))
        message = f"workload: ended with code {ended.detail}, {after} after it was ready"
        outcome.fail(TrialError(message, ending="workload-ended"))


def keep_logs(instance: Instance, outcome: Outcome, log_dir: Path) -> None:
    """Keep what it wrote beside the record; the end of stderr explains a failure. Raises: StoreError."""
    stdout, stderr = instance.output()
    logs = {"stdout.log": stdout, "stderr.log": stderr, "console.log": instance.console()}
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        for name, content in logs.items():
            if content:
                (log_dir / name).write_bytes(content)
    except OSError as error:
        raise StoreError(f"{log_dir}: cannot be written: {error.strerror}") from error
    if outcome.status != "ok":
        _add_last_words(outcome, stderr, stdout, logs["console.log"])


def _add_last_words(outcome: Outcome, stderr: bytes, stdout: bytes, console: bytes) -> None:
    """Add to a failure the line of its output that explains it, of the first stream that has one."""
    if outcome.ending == "workload-ended" and _NO_ROOM in stderr:
        outcome.ending = "disk-full"
        outcome.error = f"{outcome.error} ({_ROOM_HINT})"
    if outcome.ending not in {None, "gone"} and (_told_by_console(outcome) or _PANIC not in console):
        console = b""
    for name, content in zip(STREAMS, (stderr, stdout, console), strict=True):
        words = _last_words(content)
        if words:
            outcome.error = f"{outcome.error} | {name}: {words}"
            return


def _told_by_console(outcome: Outcome) -> bool:
    """Return whether the error has the console's own words."""
    return (outcome.ending or "").startswith(("guest-", "vmm-"))


def _last_words(content: bytes) -> str:
    """Return the line that explains an end: a panic or a full disk, with what helps where we know it; else the last."""
    for sign in (_PANIC, _NO_ROOM):
        found = content.find(sign)
        if found >= 0:
            start = found if sign == _PANIC else content.rfind(b"\n", 0, found) + 1
            line = content[start:].split(b"\n", 1)[0].decode("utf-8", "replace").strip()
            return f"{line} (raise limits.memory)" if sign == _PANIC and "memory" in line.lower() else line
    lines = content[-2000:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""

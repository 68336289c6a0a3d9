"""Carrying out one run: measure what is left, clean up, report. `harness run` and others that measure share it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

import click

from harness import plugins
from harness.analysis.identity import differences
from harness.analysis.summary import analyse
from harness.cli._answer import Answer
from harness.cli._compose import Composition, prepare_arms, refuse_other_ground, run_record
from harness.cli._live import observer_for
from harness.cli._room import room
from harness.cli._signals import Signals
from harness.cli.report import gated_metrics
from harness.errors import HarnessError, Interrupted, RunFailed, StoreError, UsageError
from harness.host.paths import runtime_dir
from harness.model.records import RunRecord, RunStatus
from harness.model.units import parse_duration_ns
from harness.results.store import RunDirectory
from harness.trials import ownership
from harness.trials.runner import Bench, Stopping, beyond_tolerance, count, has_complete_block, measure, settled

REPORT_FORMATS = ("markdown", "csv", "json")


@dataclass(slots=True)
class Job:
    """One call of the command, and how far it came: whatever ends it must say where the run is."""

    results: Path
    budget_ns: int | None
    answer: Answer
    signals: Signals
    directory: RunDirectory | None = None
    stage: str = "before the first trial"
    left: list[str] = field(default_factory=list)


def budget_ns_of(text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration_ns(text)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from error


@contextlib.contextmanager
def interrupts_told(job: Job) -> Iterator[None]:
    """Turn Ctrl-C into the error that says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if job.directory is None:
            raise Interrupted(f"interrupted {job.stage}: nothing was measured") from None
        path = job.directory.path
        kept = count(len(job.directory.trials()), "finished trial")
        command = "report" if job.stage == "while reporting" else "run --resume"
        message = f"interrupted {job.stage}: {kept} kept in {path}"
        raise Interrupted(message, hint=f"harness {command} {path}") from None


def refuse_owned(directory: RunDirectory) -> None:
    """Raise StoreError while another process works on a run."""
    owner = ownership.living_owner(directory.run().run_id)
    if owner is not None:
        hint = f"wait until process {owner.pid} has ended"
        raise StoreError(f"{directory.path}: another harness works on it", hint=hint)


def _stopping(composition: Composition, budget_ns: int | None) -> Stopping:
    """Return the stop rule. Against a base the question is the margin alone: a narrow interval may still hold it."""
    scenario, subject = composition.loaded.scenario, composition.subject
    gated = scenario.gate.metrics if scenario.gate else subject.stop_metrics
    margin = scenario.gate.margin if scenario.gate else 0.05
    metrics = [one.name for one in subject.metrics if any(fnmatchcase(one.name, pattern) for pattern in gated)]
    precision = 0.0 if composition.base else scenario.trials.precision
    return Stopping(tuple(metrics or gated), margin, precision, budget_ns)


def carry_out(job: Job, composition: Composition) -> None:
    """Measure what is left to measure, report, and fail where it is no measurement."""
    stopping = _stopping(composition, job.budget_ns)
    try:
        if job.directory is None or not _is_settled(job, job.directory, composition, stopping):
            _measure_and_clean_up(job, composition, stopping)
    except RunFailed as error:
        _report_failed(job, composition, error)
        raise
    assert job.directory is not None
    job.stage = "while reporting"
    job.signals.release()
    _report(job, job.directory, job.directory.run())
    _refuse_incomplete(job, job.directory)


def _is_settled(job: Job, directory: RunDirectory, composition: Composition, stopping: Stopping) -> bool:
    """Return whether a run that is taken up has all its trials; run.json may not know it, if it was killed then."""
    reason = settled(composition.plan, stopping, directory.trials())
    if reason is None:
        return False
    record = directory.run()
    if record.status != "complete":
        _end(directory, record, "complete", reason)
    if not job.answer.as_json:
        click.echo(f"nothing is left to measure: {reason}", err=True)
    return True


def _measure_and_clean_up(job: Job, composition: Composition, stopping: Stopping) -> None:
    observer = observer_for(composition.plan, quiet=job.answer.as_json)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(observer)
        cleanup.callback(_clean_up, job, composition)
        scratch = ownership.claim(composition.token, composition.run_id)
        try:
            observer.say(f"preparing {', '.join(composition.loaded.scenario.contenders)}")
            prepared = prepare_arms(composition, scratch, cleanup, observer.say)
            record = run_record(composition, prepared)
            directory = job.directory = _directory(job, composition, record)
            observer.start(directory.path, record)
            bench = Bench(prepared.contenders, directory, observer)
            job.stage = "while measuring"
            _measure(composition, bench, stopping, directory, record)
        finally:
            job.signals.hold()


def _directory(job: Job, composition: Composition, record: RunRecord) -> RunDirectory:
    """Return the run's directory with run.json as of now: a new one, or the one that is taken up."""
    if job.directory is not None:
        refuse_other_ground(job.directory.run(), record)
        job.directory.write_run(record)
        return job.directory
    loaded = composition.loaded
    return RunDirectory.create(job.results, record, loaded.text, loaded.resolved(), base_dir=loaded.base_dir)


def _measure(
    composition: Composition, bench: Bench, stopping: Stopping, directory: RunDirectory, record: RunRecord
) -> None:
    """Run the trials; whatever ends them, run.json says so."""
    try:
        reason = measure(composition.plan, bench, stopping, directory.trials())
    except (KeyboardInterrupt, BrokenPipeError):  # the pipe is our stderr: whoever followed the run has gone
        _end(directory, record, "interrupted", "interrupted by the user")
        raise
    except StoreError as error:
        message = f"{error.message} ({room(directory.path)})"
        _end(directory, record, "failed", message)
        kept = count(len(directory.trials()), "finished trial")
        hint = f"{kept} kept; make room, then: harness run --resume {directory.path}"
        raise RunFailed(message, hint=hint) from error
    except Exception as error:
        _end(directory, record, "failed", error.message if isinstance(error, HarnessError) else repr(error))
        raise
    _end(directory, record, "complete", reason)


def _end(directory: RunDirectory, record: RunRecord, status: RunStatus, reason: str) -> None:
    try:
        directory.write_run(replace(record, status=status, stop_reason=reason))
    except OSError as error:
        click.echo(f"{directory.path / 'run.json'}: still says 'running': {error.strerror}", err=True)


def _report_failed(job: Job, composition: Composition, error: RunFailed) -> None:
    """Report a failed run as far as it goes; different arms are not compared, so there is no table of them."""
    if job.directory is None:
        return
    records = job.directory.trials()
    record = replace(job.directory.run(), status="failed", stop_reason=error.message)
    comparable = has_complete_block(composition.plan, records) and not differences(records)
    try:
        _report(job, job.directory, record, show=comparable)
    except RunFailed as second:  # the disk is full for reports too; the first failure is the cause
        click.echo(second.message, err=True)


def _report(job: Job, directory: RunDirectory, record: RunRecord, *, show: bool = True) -> None:
    """Write every format into the run directory and print one of them. Raises: RunFailed when one cannot be written."""
    report = analyse(record, directory.trials())
    problem = None
    for name in REPORT_FORMATS:
        renderer = plugins.load("report", name)
        path = directory.report_dir / f"summary{renderer.suffix}"
        try:
            path.write_text(renderer.render(report), encoding="utf-8")
        except OSError as error:
            path.unlink(missing_ok=True)  # half a report reads like a whole one
            problem = f"{path}: cannot be written: {error.strerror} ({room(directory.path)})"
    again = f"harness report {directory.path}"
    if show:
        job.answer.report(report, again, gated_metrics(directory))
    if problem:
        raise RunFailed(problem, hint=f"all trials are kept; {again} shows the report again")
    if show:
        click.echo(f"\nreport  {directory.report_dir}", err=True)


def _refuse_incomplete(job: Job, directory: RunDirectory) -> None:
    """Exit code 4 for a run that is no measurement: too many failures, or remains on this host."""
    if job.left:
        raise RunFailed(
            f"left behind: {'; '.join(job.left)}", hint="please report this as a bug; harness clean --dry-run"
        )
    lines = beyond_tolerance(directory.trials())
    if lines:
        raise RunFailed("; ".join(lines), hint=f"what they wrote is in {directory.path / 'logs'}")


def _clean_up(job: Job, composition: Composition) -> None:
    """Whatever happened, nothing with this run's token stays; in a good run there are only its own directories."""
    own = {f"directory: {(base / composition.token).resolve()}" for base in (runtime_dir(), ownership.work_base())}
    backends = composition.subject.backends
    try:
        found = ownership.reap(composition.token, backends, dry_run=False)
        job.left = [line for line in found if line not in own]
        job.left += [
            f"{line} (still there)" for backend in backends for line in backend.reap(composition.token, dry_run=True)
        ]
    except (HarnessError, OSError) as error:  # the error that ends the run must not be hidden by this one
        job.left = [str(error)]
        click.echo(f"clean-up: {error}; harness clean removes what is left", err=True)

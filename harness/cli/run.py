"""`harness run`: plan, measure, analyse, report."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click

from harness import plugins
from harness.analysis.summary import analyse
from harness.cli._compose import Composition, compose, prepare_arms, run_record
from harness.cli._live import LiveObserver, observer_for
from harness.errors import Interrupted, RunFailed, UsageError
from harness.interfaces import Arm
from harness.model.records import RunRecord, RunStatus, TrialRecord
from harness.model.units import parse_duration_ns
from harness.results.store import RunDirectory, find_run
from harness.trials import ownership
from harness.trials.runner import Bench, Stopping, beyond_tolerance, measure

REPORT_FORMATS = ("markdown", "csv", "json")


def _budget_ns(text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration_ns(text)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from error


@click.command(short_help="Measure a scenario and print the comparison.")
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@click.option("--only", multiple=True, metavar="RUNTIME", help="Measure only this runtime (repeat for more).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: trials.blocks.min=6")
@click.option("--resume", metavar="RUN", help="Go on with an interrupted run (its directory, id, or 'latest').")
@click.option("--budget", metavar="TIME", help="Stop after the block in which this much time has passed: 10m")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs go."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
def run(
    *,
    scenario: Path | None,
    only: tuple[str, ...],
    overrides: tuple[str, ...],
    resume: str | None,
    budget: str | None,
    results: Path,
    as_json: bool,
) -> None:
    """Start the same workload in every runtime of SCENARIO, again and again in random order, and compare.

    Results go to stdout and into a new directory under results/; every finished trial is on disk at once. Ctrl-C cleans
    up and leaves a run that --resume completes.

    \b
    harness run scenarios/quickstart.yaml
    harness run scenarios/boot.yaml --only vm --only process --set trials.blocks.min=6
    harness run --resume latest
    """
    budget_ns = _budget_ns(budget)
    if (scenario is None) == (resume is None):
        raise UsageError("run: give either a SCENARIO or --resume RUN", hint="harness run scenarios/quickstart.yaml")
    former = RunDirectory.open(find_run(results, resume)) if resume is not None else None
    if former is not None:
        if only or overrides:
            raise UsageError("--resume: takes no --only and no --set: the run goes on as it was planned")
        composition = compose(former.scenario_path(), former=former)
    else:
        assert scenario is not None
        composition = compose(scenario, only=only, overrides=overrides)
    records = _measure_and_report(composition, former, results, budget_ns, as_json=as_json)
    _refuse_incomplete(records, composition)


def _measure_and_report(
    composition: Composition, former: RunDirectory | None, results: Path, budget_ns: int | None, *, as_json: bool
) -> Sequence[TrialRecord]:
    observer = observer_for(composition.plan, quiet=as_json)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(_interruptible())
        cleanup.enter_context(observer)
        scratch = ownership.claim(composition.token, composition.run_id)
        cleanup.callback(_clean_up, composition)
        observer.say(f"preparing {', '.join(composition.loaded.scenario.runtimes)}")
        arms = prepare_arms(composition, scratch, cleanup)
        record = run_record(composition, arms)
        directory = former or RunDirectory.create(
            results,
            record,
            composition.loaded.text,
            composition.loaded.resolved(),
            base_dir=composition.loaded.base_dir,
        )
        directory.write_run(record)
        observer.start(directory.path, record)
        record = _measure(composition, directory, record, arms, observer, budget_ns)
    _report(directory, record, as_json=as_json)
    return directory.trials()


def _measure(
    composition: Composition,
    directory: RunDirectory,
    record: RunRecord,
    arms: dict[str, Arm],
    observer: LiveObserver,
    budget_ns: int | None,
) -> RunRecord:
    """Run the trials; whatever ends them, run.json says so."""
    bench = Bench(arms, composition.probes, composition.timeout_ns, directory, observer)
    scenario = composition.loaded.scenario
    gated = scenario.gate.metrics if scenario.gate else ("startup.ready",)
    margin = scenario.gate.margin if scenario.gate else 0.05
    stopping = Stopping(tuple(gated), margin, scenario.trials.precision, budget_ns)
    try:
        reason = measure(composition.plan, bench, stopping, directory.trials())
    except (KeyboardInterrupt, SystemExit):
        _end(directory, record, "interrupted", "interrupted by the user")
        raise Interrupted(
            f"interrupted: {len(directory.trials())} finished trials are kept in {directory.path}",
            hint=f"harness run --resume {directory.path.name}",
        ) from None
    except RunFailed as error:
        _end(directory, record, "failed", error.message)
        _report(directory, replace(record, status="failed", stop_reason=error.message), as_json=False, show=False)
        raise
    return _end(directory, record, "complete", reason)


def _end(directory: RunDirectory, record: RunRecord, status: RunStatus, reason: str) -> RunRecord:
    ended = replace(record, status=status, stop_reason=reason)
    directory.write_run(ended)
    return ended


def _report(directory: RunDirectory, record: RunRecord, *, as_json: bool, show: bool = True) -> None:
    """Write every format into the run directory and print one of them."""
    report = analyse(record, directory.trials())
    for name in REPORT_FORMATS:
        renderer = plugins.load("report", name)
        (directory.report_dir / f"summary{renderer.suffix}").write_text(renderer.render(report))
    if show:
        click.echo(plugins.load("report", "json" if as_json else "terminal").render(report), nl=False)
        click.echo(f"\nreport  {directory.report_dir}", err=True)


def _refuse_incomplete(records: Sequence[TrialRecord], composition: Composition) -> None:
    """Exit code 4 for a run that is no measurement: too many failures, or remains on this host."""
    lines = beyond_tolerance(records)
    left = [line for backend in composition.backends for line in backend.reap(composition.token, dry_run=True)]
    if left:
        raise RunFailed(f"left behind: {'; '.join(left)}", hint="harness clean removes it; please report this as a bug")
    if lines:
        raise RunFailed("; ".join(lines), hint="the logs of every trial are in the run directory under logs/")


def _clean_up(composition: Composition) -> None:
    """Whatever happened, nothing with this run's token stays; in a good run there is only the scratch directory."""
    ownership.reap(composition.token, composition.backends, dry_run=False)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: with clean-up and a resumable run directory."""

    def on_term(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)

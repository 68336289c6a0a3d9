"""`harness run`: plan, measure, analyse, report."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import click

from harness.cli._answer import Answer
from harness.cli._compose import Composition, compose, former_scenario
from harness.cli._job import Job, budget_ns_of, carry_out, interrupts_told, refuse_owned
from harness.cli._known import load_scenarios
from harness.cli._room import refuse_unwritable
from harness.cli._signals import Signals
from harness.cli._sweep import Sweep, carry_out_all, taken_up
from harness.errors import UsageError
from harness.model.reading import the_only
from harness.results.store import RunDirectory, find_run
from harness.trials.revision import BaseTree, checkout


@click.command(short_help="Measure a scenario and print the comparison.")
@click.argument("scenario", type=click.Path(path_type=Path), required=False)
@click.option("--only", multiple=True, metavar="RUNTIME", help="Measure only this runtime (repeat for more).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: trials.blocks.min=6")
@click.option("--resume", metavar="RUN", help="Go on with an interrupted run (its directory, id, or 'latest').")
@click.option(
    "--base", metavar="REVISION", help="Measure the scenario as of this git revision too, in the same blocks."
)
@click.option("--budget", metavar="TIME", help="Begin no block that would end later than this: 10m")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs go."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of the table, also for an error."
)
def run(  # noqa: PLR0913  (click passes every option)
    *,
    scenario: Path | None,
    only: tuple[str, ...],
    overrides: tuple[str, ...],
    resume: str | None,
    base: str | None,
    budget: str | None,
    results: Path,
    as_json: bool,
) -> None:
    """Start the same workload in every runtime of SCENARIO, again and again in random order, and compare.

    Results go to stdout and into a new directory under results/; every finished trial is on disk at once. Ctrl-C cleans
    up and leaves a run that --resume completes. Of a scenario with `matrix:`, each cell is a run.

    With --json, stdout holds exactly one document: the report of what was measured, or, where there is none, a
    document of the schema harness.error/1 with exit_code, message and hint. Errors go to stderr as well. Only
    an unknown option leaves stdout empty.

    \b
    harness run scenarios/quickstart.yaml
    harness run scenarios/boot.yaml --only vm --only process --set trials.blocks.min=6
    harness run --resume latest
    harness run scenarios/boot.yaml --base main     then: harness gate latest
    """
    with Answer(as_json=as_json) as answer, Signals() as signals, contextlib.ExitStack() as kept:
        job = Job(results, budget_ns_of(budget), answer, signals)
        if (scenario is None) == (resume is None):
            raise UsageError(
                "run: give either a SCENARIO or --resume RUN", hint="harness run scenarios/quickstart.yaml"
            )
        with interrupts_told(job):
            if scenario is not None:
                cells = load_scenarios(scenario, overrides, only)
                if cells[0].cell and not base:
                    carry_out_all(job, Sweep(cells))
                    return
                loaded = the_only(cells)
                tree = kept.enter_context(checkout(scenario, base)) if base else None
                composition = compose(loaded, base=tree)
                refuse_unwritable(results)
                carry_out(job, composition)
            elif only or overrides or base:
                raise UsageError("--resume: takes no --only, --set or --base: the run goes on as it was planned")
            else:
                assert resume is not None
                former = RunDirectory.open(find_run(results, resume))
                refuse_unwritable(former.path)
                if former.run().matrix:
                    job.results = former.path.absolute().parent  # new cells go beside the others
                    carry_out_all(job, taken_up(former))
                else:
                    carry_out(job, _take_up(job, former, kept))


def _take_up(job: Job, former: RunDirectory, kept: contextlib.ExitStack) -> Composition:
    """Return what an interrupted run needs to go on. Raises: StoreError while another process works on it."""
    refuse_owned(former)
    job.directory = former
    return compose(former_scenario(former), former=former, base=_former_base(former, kept))


def _former_base(former: RunDirectory, kept: contextlib.ExitStack) -> BaseTree | None:
    """Return the base revision that a run began with, from the checkout that it was started in."""
    base = former.run().base
    if not base:
        return None
    path = former.base_dir() / str(base["scenario"])
    if not base["commit"]:  # the scenario against itself: what of it is noise
        return BaseTree(path, str(base["revision"]), "")
    return replace(kept.enter_context(checkout(path, str(base["commit"]))), revision=str(base["revision"]))

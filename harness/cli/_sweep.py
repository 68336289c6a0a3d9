"""A scenario with a matrix: a run for each cell, one after the other, and one table of all of them at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click

from harness.cli._answer import Answer
from harness.cli._compose import compose, former_scenario
from harness.cli._job import Job, carry_out, interrupts_told, refuse_owned
from harness.cli._known import load_scenarios
from harness.cli._room import refuse_unwritable
from harness.cli._series import load_series
from harness.cli._subject import subject
from harness.cli.report import gated_metrics
from harness.errors import Interrupted, RunFailed
from harness.model.matrix import label
from harness.model.reading import LoadedScenario
from harness.results.store import RunDirectory, series_of
from harness.trials.runner import beyond_tolerance


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a scenario; `former` are the runs that an earlier call made of them, by number from 1."""

    cells: Sequence[LoadedScenario]
    former: Mapping[int, RunDirectory] = field(default_factory=dict)


def taken_up(one: RunDirectory) -> Sweep:
    """Return the sweep that a run is a cell of. Raises: StoreError where another process works on it."""
    swept = one.run().matrix["cell"]
    given = [assignment for assignment in one.overrides() if assignment.partition("=")[0] not in swept]
    former = {number: RunDirectory.open(path) for number, path in series_of(one.path).items()}
    for directory in former.values():
        refuse_owned(directory)
    return Sweep(load_scenarios(one.scenario_path(), given, one.only(), one.base_dir()), former)


def carry_out_all(job: Job, sweep: Sweep) -> None:
    """Measure every cell that is not complete, and show the table. A cell that fails does not end the others.

    Raises: RunFailed for cells that are no measurement, Interrupted, and what a single run raises before it measures.
    """
    runs, failures = dict(sweep.former), dict[int, str]()
    waiting = [number for number in range(1, len(sweep.cells) + 1) if not _is_complete(runs.get(number))]
    for number in waiting:
        subject(sweep.cells[number - 1], None)  # what any of them lacks is told before the first is measured
    refuse_unwritable(job.results)
    ends_ns = None if job.budget_ns is None else time.monotonic_ns() + job.budget_ns
    for place, number in enumerate(waiting):
        share_ns = None if ends_ns is None else max(1, ends_ns - time.monotonic_ns()) // (len(waiting) - place)
        answer = Answer(as_json=job.answer.as_json, shown=False)
        one = Job(job.results, share_ns, answer, job.signals, runs.get(number))
        try:
            _carry_out(one, sweep, number, runs)
        except RunFailed as error:
            job.signals.release()
            failures[number] = error.message
        if one.directory is not None:
            runs[number] = job.directory = one.directory
            job.stage = "between cells"
    for number in sorted({*runs} - {*waiting}):
        lines = beyond_tolerance(runs[number].trials())
        if lines:
            failures[number] = "; ".join(lines)
    job.stage = "while reporting"
    _show(job, [runs[number] for number in sorted(runs)])
    if failures:
        told = [f"cell {number} ({label(sweep.cells[number - 1].cell)}): {why}" for number, why in failures.items()]
        raise RunFailed("\n".join(told), hint="the other cells count; logs are in each run's directory")


def _is_complete(directory: RunDirectory | None) -> bool:
    return directory is not None and directory.run().status == "complete"


def _carry_out(one: Job, sweep: Sweep, number: int, runs: Mapping[int, RunDirectory]) -> None:
    """Measure one cell. Raises: Interrupted that says how the whole sweep goes on, and what a run raises."""
    cell = sweep.cells[number - 1]
    if not one.answer.as_json:
        click.echo(f"\ncell {number}/{len(sweep.cells)}   {label(cell.cell)}", err=True)
    try:
        with interrupts_told(one):
            if one.directory is not None:
                carry_out(one, compose(former_scenario(one.directory), former=one.directory))
                return
            series = {"series": next(iter(runs.values())).run().matrix["series"]} if runs else {}
            matrix = {"number": number, "cells": len(sweep.cells), "cell": dict(cell.cell), **series}
            carry_out(one, compose(cell, matrix=matrix))
    except Interrupted as error:
        if one.directory is not None or not runs:
            raise Interrupted(f"cell {number} of {len(sweep.cells)}: {error.message}", hint=error.hint) from None
        last = runs[max(runs)].path
        message = f"interrupted before cell {number} of {len(sweep.cells)}: those before it are kept"
        raise Interrupted(message, hint=f"harness run --resume {last}") from None


def _show(job: Job, runs: Sequence[RunDirectory]) -> None:
    """Print the table of all cells that have a run."""
    if not runs:
        return
    job.answer.series(load_series(runs), f"harness report {runs[-1].path} --matrix", gated_metrics(runs[0]))

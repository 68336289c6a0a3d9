"""A scenario with a matrix: a run for each cell, one after the other, and one table of all of them at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import click

from harness.cli._answer import Answer
from harness.cli._compose import compose, former_scenario, refuse_other_series
from harness.cli._job import Job, carry_out, interrupts_told, refuse_owned
from harness.cli._known import load_scenarios
from harness.cli._room import refuse_unwritable
from harness.cli._series import load_series
from harness.cli._subject import subject
from harness.cli.report import gated_metrics
from harness.errors import CapabilityError, HarnessError, Interrupted, RunFailed, StoreError
from harness.model.matrix import label
from harness.model.reading import LoadedScenario
from harness.results.store import RunDirectory, series_lock, series_of


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a scenario; `former` are the runs that an earlier call made of them, by number from 1."""

    cells: Sequence[LoadedScenario]
    former: Mapping[int, RunDirectory] = field(default_factory=dict)

    def named(self, numbers: Iterable[int]) -> str:
        """Return cells for a message: `cell 2 (limits.memory=1GiB)`."""
        return ", ".join(f"cell {number} ({label(self.cells[number - 1].cell)})" for number in numbers)


def taken_up(one: RunDirectory) -> Sweep:
    """Return the sweep that a run is a cell of. Raises: StoreError where another process works on it."""
    swept = one.run().matrix["cell"]
    given = [assignment for assignment in one.overrides() if assignment.partition("=")[0] not in swept]
    former = {number: RunDirectory.open(path) for number, path in series_of(one.path).items()}
    for directory in former.values():
        refuse_owned(directory)
    return Sweep(load_scenarios(one.scenario_path(), given, one.only(), one.base_dir()), former)


def carry_out_all(job: Job, sweep: Sweep) -> None:
    """Measure of every cell what is left to measure, and show the table. A cell that fails does not end the others.

    Raises: RunFailed for cells that are no measurement, Interrupted, and what a single run raises before it measures.
    """
    _refuse_lacking(sweep)
    refuse_unwritable(job.results)
    job.stage = "between cells"
    runs, failures = dict(sweep.former), dict[int, HarnessError]()
    ends_ns = None if job.budget_ns is None else time.monotonic_ns() + job.budget_ns
    with contextlib.ExitStack() as lock:
        for number in range(1, len(sweep.cells) + 1):
            one = Job(
                job.results, _share_ns(ends_ns, len(sweep.cells) - number + 1),
                Answer(as_json=job.answer.as_json, shown=False), job.signals, runs.get(number),
            )  # fmt: skip
            if runs and job.directory is None:
                lock.enter_context(series_lock(runs[min(runs)].path))
                job.directory = runs[max(runs)]
            error = _attempt(one, sweep, number, runs)
            if one.directory is not None:
                runs[number] = one.directory
            if error is not None:
                failures[number] = error
            job.signals.release()
            if isinstance(error, StoreError) or (error and isinstance(error.__cause__, StoreError)):
                break  # the place for results: the next cell would meet it too
    _show(job, [runs[number] for number in sorted(runs)])
    _refuse_failures(sweep, failures, measured=bool(runs))


def _share_ns(ends_ns: int | None, left: int) -> int | None:
    """Return how much of the time until `ends_ns` one of the cells that are left may take."""
    return None if ends_ns is None else max(1, ends_ns - time.monotonic_ns()) // left


def _refuse_lacking(sweep: Sweep) -> None:
    """Raise one CapabilityError that names all that any cell lacks, before the first of them is measured."""
    lacking: dict[str, list[int]] = {}
    hints: dict[str, None] = {}
    for number, cell in enumerate(sweep.cells, 1):
        try:
            subject(cell, None)
        except CapabilityError as error:
            lacking.setdefault(error.message, []).append(number)
            hints |= {error.hint: None} if error.hint else {}
    if lacking:
        lines = [
            message if len(numbers) == len(sweep.cells) else f"{sweep.named(numbers)}: {message}"
            for message, numbers in lacking.items()
        ]
        raise CapabilityError("\n".join(lines), hint="; ".join(hints) or None)


def _attempt(one: Job, sweep: Sweep, number: int, runs: Mapping[int, RunDirectory]) -> HarnessError | None:
    """Measure one cell; return what went wrong. Raises: Interrupted that says how the whole sweep goes on."""
    cell, of = sweep.cells[number - 1], len(sweep.cells)
    if not one.answer.as_json:
        click.echo(f"\ncell {number}/{of}   {label(cell.cell)}", err=True)
    try:
        with interrupts_told(one):
            _carry_out(one, cell, {"number": number, "cells": of, "cell": dict(cell.cell)}, runs)
    except Interrupted as error:
        last = one.directory or (runs[max(runs)] if runs else None)
        if last is None:
            raise
        message = f"cell {number} of {of}: {error.message}"
        if one.directory is None:
            message = f"interrupted before the first trial of cell {number} of {of}: the cells before it are kept"
        raise Interrupted(message, hint=f"harness run --resume {last.path}") from None
    except HarnessError as error:
        return error
    return None


def _carry_out(one: Job, cell: LoadedScenario, matrix: dict[str, object], runs: Mapping[int, RunDirectory]) -> None:
    if one.directory is not None:
        carry_out(one, compose(former_scenario(one.directory), former=one.directory))
        return
    first = runs[min(runs)].run() if runs else None
    if first is not None:
        matrix["series"] = first.matrix["series"]
    composition = compose(cell, matrix=matrix)
    if first is not None:
        refuse_other_series(first, composition)
    carry_out(one, composition)


def _show(job: Job, runs: Sequence[RunDirectory]) -> None:
    """Print the table of all cells that have a run."""
    if runs:
        job.answer.series(load_series(runs), f"harness report {runs[-1].path} --matrix", gated_metrics(runs[-1]))


def _refuse_failures(sweep: Sweep, failures: Mapping[int, HarnessError], *, measured: bool) -> None:
    """Raise what ended cells: RunFailed that names each, or the error itself where no cell has been measured."""
    if not failures:
        return
    if not measured:
        raise next(iter(failures.values()))
    lines = [f"{sweep.named([number])}: {error.message}" for number, error in failures.items()]
    hints = dict.fromkeys(error.hint for error in failures.values() if error.hint)
    raise RunFailed("\n".join(lines), hint="; ".join(hints) or None)

"""From a scenario file to its scenarios, one for each cell of its matrix, or to every mistake in it at once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import Problem, ScenarioError, UsageError
from harness.model import matrix
from harness.model.checking import Known, check
from harness.model.document import Document, did_you_mean, override, read
from harness.model.scenario import AnyScenario, resolved


@dataclass(frozen=True, slots=True)
class LoadedScenario:
    """A scenario with where it came from and how it was changed.

    Paths in the scenario count from `base_dir`; `notes` say what a reader may not expect. `cell` has the keys that a
    matrix sweeps with the values of this one, which are the last of the `overrides`.
    """

    scenario: AnyScenario
    path: Path
    base_dir: Path
    text: str
    overrides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cell: Mapping[str, str] = field(default_factory=dict)

    def resolved(self) -> dict[str, Any]:
        """Return what scenario.resolved.json holds: the scenario with every default, and how it was overridden."""
        return {**resolved(self.scenario), "overrides": list(self.overrides), "only": list(self.only)}


def load(
    path: Path,
    known: Known,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    base_dir: Path | None = None,
) -> LoadedScenario:
    """Return the scenario of a file, for those who take no more than one: see `load_cells`.

    Raises: what `load_cells` raises; UsageError where a matrix leaves more than one.
    """
    return the_only(load_cells(path, known, overrides=overrides, only=only, base_dir=base_dir))


def the_only(cells: Sequence[LoadedScenario]) -> LoadedScenario:
    """Return the one scenario of a file. Raises: UsageError that says how to choose where a matrix has more."""
    if len(cells) > 1:
        pins = " ".join(f"--set {shlex.quote(f'{key}={text}')}" for key, text in cells[0].cell.items())
        hint = f"choose one: {pins}"
        raise UsageError(f"{cells[0].path}: its matrix has {len(cells)} cells, where one is expected", hint=hint)
    return cells[0]


def load_cells(
    path: Path,
    known: Known,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    base_dir: Path | None = None,
) -> tuple[LoadedScenario, ...]:
    """Return the scenario of a file, one for each cell of its matrix; just one where it has none.

    `overrides` are `dotted.key=value`, applied in order, and one of a swept key leaves that value alone. `only` keeps
    these runtimes or arms. `base_dir` is given where the file is a copy; otherwise paths count from its own directory.

    Raises: ScenarioError with every mistake; UsageError for an override or a runtime of `only` that cannot be.
    """
    stages = [read(path)]
    for assignment in overrides:
        stages.append(override(stages[-1], assignment))
    found: list[LoadedScenario] = []
    problems: dict[Problem, None] = {}
    hint = None
    for cell in matrix.cells(stages[-1], matrix.pinned_keys(overrides)):
        try:
            scenario, notes = check(cell.within(stages[-1]), known)
        except ScenarioError as error:
            blamed = _blame(error.problems, [_if_possible(cell, stage) for stage in stages], overrides, known)
            problems |= dict.fromkeys(blamed)
            hint = hint or error.hint
            continue
        if only:
            scenario, left_out = _keep(scenario, only)
            notes = (*notes, *left_out)
        settings = cell.settings(stages[-1])
        settled = (*overrides, *(f"{key}={text}" for key, text in settings.items()))
        text = stages[0].text
        found.append(
            LoadedScenario(scenario, path, base_dir or path.parent, text, settled, tuple(only), notes, settings)
        )
    if problems:
        raise ScenarioError(sorted(problems, key=lambda problem: (problem.line, problem.column)), hint=hint)
    return tuple(found)


def _if_possible(cell: matrix.Cell, stage: Document) -> Document:
    """Return the cell's scenario at a stage that may not have its matrix yet, or not the mappings to put it in."""
    try:
        return cell.within(stage)
    except (ScenarioError, LookupError, TypeError):
        return stage


def _blame(
    problems: Sequence[Problem], stages: Sequence[Document], overrides: Sequence[str], known: Known
) -> list[Problem]:
    """Return the problems with the override that brought each of them in its place, where one did.

    An override can make a mistake of what the file says elsewhere (a second condition beside `ready`), so the place
    alone does not tell: a mistake came by the last override before which it was not there.
    """
    blamed = list(problems)
    said = {(problem.key, problem.message) for problem in problems if problem.line}
    for stage, assignment in reversed(tuple(zip(stages, overrides, strict=False))):
        before = _said(stage, known)
        for index, problem in enumerate(blamed):
            mistake = (problem.key, problem.message)
            if mistake in said and mistake not in before:
                blamed[index] = replace(problem, path=f"--set {assignment}", line=0, column=0)
                said.discard(mistake)
        said &= before
    return blamed


def _said(document: Document, known: Known) -> set[tuple[str, str]]:
    """Return key and message of every mistake in a document."""
    try:
        check(document, known)
    except ScenarioError as error:
        return {(problem.key, problem.message) for problem in error.problems}
    return set()


def _keep(scenario: AnyScenario, only: Sequence[str]) -> tuple[AnyScenario, tuple[str, ...]]:
    """Return the scenario with these runtimes or arms alone, in its own order, and what that changes."""
    for name in only:
        if name not in scenario.contenders:
            suggestion = did_you_mean(name, scenario.contenders).removeprefix("; ")
            raise UsageError(f"--only: {name}: not one of the {scenario.ARMS}", hint=suggestion or None)
    kept = {name: arm for name, arm in getattr(scenario, scenario.ARMS).items() if name in only}
    if scenario.control in kept:
        return scenario.model_copy(update={scenario.ARMS: kept}), ()
    control = next(iter(kept))
    note = f"--only leaves out the control {scenario.control}: {control} is the control of this run"
    return scenario.model_copy(update={scenario.ARMS: kept, "control": control}), (note,)

"""Measure a scenario beside its base revision and judge it, with a second batch of blocks before anything is red."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli._answer import Answer
from harness.cli._compose import compose
from harness.cli._job import Job, carry_out, interrupts_told
from harness.cli._known import load_scenario
from harness.cli._output import note
from harness.cli._room import refuse_unwritable
from harness.cli._signals import Signals
from harness.errors import StoreError
from harness.results.store import RunDirectory, list_runs
from harness.trials.revision import BaseTree, checkout

if TYPE_CHECKING:
    from harness.analysis.decision import Decision
    from harness.analysis.gate import Policy

Accept = Callable[["Decision", RunDirectory], "Decision"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure against which revision. `overrides` are `--set` values; `budget_ns` is for each batch."""

    scenario: Path
    revision: str
    results: Path
    only: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    budget_ns: int | None = None


def measure(request: Request, base: BaseTree, *, confirms: str = "") -> RunDirectory:
    """Run a scenario and its base in the same blocks; return the finished run. Progress goes to stderr.

    `confirms` is the id of the run that this one was made to confirm. Raises: whatever `harness run` ends with.
    """
    with Answer(as_json=False, shown=False) as answer, Signals() as signals:
        job = Job(request.results, request.budget_ns, answer, signals)
        with interrupts_told(job):
            composition = compose(load_scenario(request.scenario, request.overrides, request.only), base=base)
            refuse_unwritable(request.results)
            facts = {**composition.base, "confirms": confirms} if confirms else composition.base
            carry_out(job, replace(composition, base=facts))
    assert job.directory is not None
    return job.directory


def judge_fresh(request: Request, policy: Policy, accept: Accept) -> tuple[RunDirectory, Decision]:
    """Measure and decide; what would be red is measured once more, in fresh blocks, before it is."""
    with contextlib.ExitStack() as kept:
        base = kept.enter_context(checkout(request.scenario, request.revision))
        directory = measure(request, base)
        decision = accept(_compared(directory, policy), directory)
        from harness.analysis.decision import confirmed, suspects  # noqa: PLC0415

        red = suspects(decision)
        if not red:
            return directory, decision
        arms = tuple(dict.fromkeys(change.runtime for change in red))
        note(f"{', '.join(arms)}: looks worse; measuring once more before it is red")
        second = measure(replace(request, only=arms), base, confirms=directory.run().run_id)
        return directory, confirmed(decision, _compared(second, _narrowed(policy, decision)))


def judge_again(directory: RunDirectory, policy: Policy, accept: Accept) -> tuple[RunDirectory, Decision]:
    """Decide on a run with a base once more, with the confirmation that was measured for it; nothing is measured.

    A run that is itself a confirmation stands for the run that it was made for. Raises: StoreError where that is gone.
    """
    first = directory.run().base.get("confirms")
    if first:
        path = directory.path.parent / str(first)
        if not path.is_dir():
            raise StoreError(f"{directory.path.name}: confirms {first}, which is not in {directory.path.parent}")
        directory = RunDirectory.open(path)
    decision = accept(_compared(directory, policy), directory)
    second = _confirmation(directory)
    if second is None:
        return directory, decision
    from harness.analysis.decision import confirmed  # noqa: PLC0415

    return directory, confirmed(decision, _compared(second, _narrowed(policy, decision)))


def _confirmation(directory: RunDirectory) -> RunDirectory | None:
    """Return the finished run that was made to confirm a run; None where there is none."""
    first = directory.run()
    later: Sequence[Path] = [path for path in list_runs(directory.path.parent) if path.name > directory.path.name]
    for path in (path for path in later if f"-{first.scenario}-" in path.name):
        found = RunDirectory.open(path)
        record = found.run()
        if record.base.get("confirms") == first.run_id and record.status == "complete":
            return found
    return None


def _compared(directory: RunDirectory, policy: Policy) -> Decision:
    from harness.analysis.decision import compare_revisions  # noqa: PLC0415

    return compare_revisions(directory.run(), directory.trials(), policy)


def _narrowed(policy: Policy, decision: Decision) -> Policy:
    """Return the policy for a confirmation: only what looked worse is asked again."""
    from harness.analysis.decision import suspects  # noqa: PLC0415

    return replace(policy, metrics=tuple(dict.fromkeys(change.metric for change in suspects(decision))))

"""`harness gate` and `harness compare`: runs against runs, their history, or a base revision measured beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli._output import note
from harness.cli.history import current_commit, entries_of
from harness.cli.report import gated_metrics, write_report
from harness.errors import HarnessError, StoreError, UsageError
from harness.results.store import RunDirectory, find_run

if TYPE_CHECKING:
    from harness.analysis.decision import Accepted, Decision
    from harness.analysis.gate import Policy
    from harness.cli._revisions import Request

EXIT = {"passed": 0, "regressed": 1, "not-comparable": 3, "inconclusive": 0}
EXIT_UNDECIDED = 5
FORMATS = ("terminal", "markdown", "junit", "json")
_NO_METRIC = "add to the scenario: gate: {margin: 5%, metrics: [startup.ready]}, or say --metric startup.ready"

_RESULTS = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs are."
)
_FORMAT = click.option("--format", "format_name", type=click.Choice(FORMATS), default="terminal", show_default=True)
_OUTPUT = click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")


@click.command(short_help="Compare two runs of one scenario, metric by metric.")
@click.argument("base", metavar="RUN_A")
@click.argument("candidate", metavar="RUN_B")
@click.option("--margin", type=float, help="Changes smaller than this ratio do not matter; default: the scenario's.")
@click.option("--all", "everything", is_flag=True, help="Show metrics too that did not change.")
@click.option("--anyway", is_flag=True, help="Compare though the scenarios or the classes of their hosts differ.")
@_FORMAT
@_OUTPUT
@_RESULTS
def compare(  # noqa: PLR0913
    *, base: str, candidate: str, margin: float | None, everything: bool, anyway: bool, format_name: str,
    output: Path | None, results: Path,
) -> None:  # fmt: skip
    """Show what changed from RUN_A to RUN_B, with intervals and verdicts. It never fails because of what it finds.

    Each runtime is compared by its ratio to the control of its own run: a slower host is not a slower runtime.

    \b
    harness compare 20260314T091522Z-boot-7f3c2d1a latest
    """
    before, after = (RunDirectory.open(find_run(results, name)) for name in (base, candidate))
    found = _compare_runs(before, after, _policy(after, (), margin), anyway=anyway)
    _write(found, after, format_name, output, everything=everything)
    if found.refusals:
        raise StoreError(f"compare: {'; '.join(found.refusals)}", hint="--anyway compares them nevertheless")


@click.command(short_help="Fail where a run got worse than a base run, a base revision or its history.")
@click.argument("run", metavar="RUN|SCENARIO")
@click.option("--base", "revision", metavar="REVISION",
              help="Measure SCENARIO beside itself as of this git revision, and judge that.")  # fmt: skip
@click.option("--only", multiple=True, metavar="RUNTIME", help="With --base: measure only this runtime. Repeat it.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="With --base: change a value, on both sides."
)
@click.option("--budget", metavar="TIME", help="With --base: stop a batch after the block in which this has passed: 5m")
@click.option("--baseline", metavar="RUN", help="Hold it against this run; without, against the history.")
@click.option("--metric", "metrics", multiple=True,
              help="Guard this metric, or glob. Repeat it; default: the scenario's gate.")  # fmt: skip
@click.option("--margin", type=float, help="Changes smaller than this ratio do not matter; default: the scenario's.")
@click.option("--accepted", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="YAML list of changes that are wanted: metric, runtime, since (run or commit), reason.")  # fmt: skip
@click.option("--strict", is_flag=True, help="End with 5 where it is undecided, instead of with a warning.")
@click.option("--history", type=click.Path(path_type=Path), default=Path("history"), show_default=True,
              help="Where histories are.")  # fmt: skip
@_FORMAT
@_OUTPUT
@_RESULTS
def gate(  # noqa: PLR0913
    *, run: str, revision: str | None, only: tuple[str, ...], overrides: tuple[str, ...], budget: str | None,
    baseline: str | None, metrics: tuple[str, ...], margin: float | None, accepted: Path | None, strict: bool,
    history: Path, format_name: str, output: Path | None, results: Path,
) -> None:  # fmt: skip
    """Hold RUN against a base and end with 1 where a guarded metric has regressed.

    A metric has regressed where its whole 95 % interval lies beyond the margin and its p-value, corrected for all that
    is guarded, is at most 5 %. Against a history the question is whether its last 3 to 6 runs lie on a worse level.

    With --base, SCENARIO is measured now, in the same random blocks as the same file at a git revision, each with its
    own image; what looks worse is measured once more, and is red only if fresh blocks show it too.

    \b
    harness gate scenarios/boot.yaml --base main     measure, judge, confirm
    harness gate latest                              judge again: a run with a base, else the newest of its history
    harness gate latest --baseline main.run          two runs
    harness gate latest --format junit --output junit.xml
    \b
    Exit codes: 0 passed or undecided, 1 regressed, 3 nothing could be compared or measured, 4 trials failed,
    5 undecided with --strict
    """
    how = _How(results, metrics, margin, accepted, format_name, output)
    if revision is not None:
        from harness.cli._job import budget_ns_of  # noqa: PLC0415
        from harness.cli._revisions import Request  # noqa: PLC0415

        settings = (*overrides, *_gate_settings(how))
        request = Request(Path(run), revision, results, only, settings, budget_ns_of(budget))
        found, directory = _measured(request, how)
    elif only or overrides or budget:
        raise UsageError("gate: --only, --set and --budget are for a scenario that is measured: --base REVISION")
    else:
        directory = RunDirectory.open(find_run(results, run))
        found, directory = _judged(directory, how, baseline, history)
    _write(found, directory, format_name, output, everything=False)
    _annotate(found, format_name)
    _end(found, strict=strict)


@dataclass(frozen=True, slots=True)
class _How:
    """How to judge, where other runs are, and how to say it."""

    results: Path
    metrics: tuple[str, ...]
    margin: float | None
    accepted: Path | None
    format_name: str
    output: Path | None

    def policy(self, directory: RunDirectory) -> Policy:
        """Return what is guarded. Raises: UsageError where nothing is."""
        found = _policy(directory, self.metrics, self.margin)
        if not found.metrics:
            raise UsageError(f"gate: {directory.path.name}: no metric is guarded", hint=_NO_METRIC)
        return found

    def accept(self, found: Decision, directory: RunDirectory) -> Decision:
        """Return the decision with what people accepted marked so."""
        return found if self.accepted is None else _accept(found, self.accepted, directory)


def _gate_settings(how: _How) -> tuple[str, ...]:
    """Return the options as settings of the scenario: they decide when enough is measured, too."""
    margin = () if how.margin is None else (f"gate.margin={how.margin}",)
    return (*margin, f"gate.metrics=[{', '.join(how.metrics)}]") if how.metrics else margin


def _measured(request: Request, how: _How) -> tuple[Decision, RunDirectory]:
    """Return the verdict on a scenario that is measured now; where it cannot be, JUnit says so with an error."""
    from harness.analysis.gate import Policy  # noqa: PLC0415
    from harness.cli._known import load_scenario  # noqa: PLC0415
    from harness.cli._revisions import judge_fresh  # noqa: PLC0415

    scenario = load_scenario(request.scenario, request.overrides).scenario
    if scenario.gate is None or not scenario.gate.metrics:
        raise UsageError(f"gate: {request.scenario}: no metric is guarded", hint=_NO_METRIC)
    policy = Policy(tuple(scenario.gate.metrics), scenario.gate.margin)
    try:
        directory, found = judge_fresh(request, policy, how.accept)
    except HarnessError as error:
        if how.format_name == "junit":
            from harness.report._decision_formats import not_measured_as_junit  # noqa: PLC0415

            write_report(not_measured_as_junit(scenario.name, error.message), how.output)
        raise
    return found, directory


def _judged(directory: RunDirectory, how: _How, baseline: str | None, history: Path) -> tuple[Decision, RunDirectory]:
    """Return the verdict on a finished run, with the run that it is about."""
    policy = how.policy(directory)
    if baseline is not None:
        base = RunDirectory.open(find_run(how.results, baseline))
        return how.accept(_compare_runs(base, directory, policy, anyway=False), directory), directory
    if directory.run().base:
        from harness.cli._revisions import judge_again  # noqa: PLC0415

        directory, found = judge_again(directory, policy, how.accept)
        return found, directory
    return how.accept(_check_history(directory, policy, history), directory), directory


def _annotate(found: Decision, format_name: str) -> None:
    """Write GitHub's annotations, once: a workflow that asks for a document too asks for the text as well."""
    from harness.report._decision_formats import github_annotations  # noqa: PLC0415

    if os.environ.get("GITHUB_ACTIONS") == "true" and format_name not in {"junit", "json"}:
        for line in github_annotations(found):
            click.echo(line, err=True)


def _end(found: Decision, *, strict: bool) -> None:
    code = EXIT[found.outcome]
    if found.outcome == "inconclusive":
        code = EXIT_UNDECIDED if strict else 0
        note("undecided: more blocks may tell (trials.blocks.max); --strict makes this exit code 5")
    if code:
        raise click.exceptions.Exit(code)


def _policy(directory: RunDirectory, metrics: Sequence[str], margin: float | None) -> Policy:
    from harness.analysis.gate import Policy  # noqa: PLC0415

    stored = directory.gate()
    chosen = stored.get("margin", 0.05) if margin is None else margin
    return Policy(tuple(metrics) or gated_metrics(directory), float(chosen))


def _compare_runs(base: RunDirectory, candidate: RunDirectory, policy: Policy, *, anyway: bool) -> Decision:
    from harness.analysis.decision import compare_runs  # noqa: PLC0415

    sides = [(directory.run(), directory.trials()) for directory in (base, candidate)]
    return compare_runs(sides[0], sides[1], policy, anyway=anyway)


def _check_history(directory: RunDirectory, policy: Policy, root: Path) -> Decision:
    from harness.analysis.decision import Decision, check_history  # noqa: PLC0415

    name = directory.path.name
    entries = entries_of(directory, root)
    place = next((n for n, entry in enumerate(entries) if entry.run_id == directory.run().run_id), None)
    if place is None:
        reason = f"{name} is not in the history {root}: harness history add {name}"
        return Decision("history", "history", name, policy, (), (reason,))
    return check_history(entries[: place + 1], policy)


def _accept(found: Decision, path: Path, directory: RunDirectory) -> Decision:
    from harness.analysis.decision import accept  # noqa: PLC0415

    known = [directory.run().run_id, *filter(None, [current_commit()])]
    return accept(found, _read_accepted(path), known=known)


def _read_accepted(path: Path) -> list[Accepted]:
    """Return the changes of an accepted-changes file. Raises: UsageError with the entry that is wrong."""
    from ruamel.yaml import YAML  # noqa: PLC0415
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    from harness.analysis.decision import Accepted  # noqa: PLC0415

    try:
        entries = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise UsageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    found, keys = [], ("metric", "runtime", "since", "reason")
    for number, entry in enumerate(entries if isinstance(entries, list) else [None], 1):
        if not isinstance(entry, dict) or set(entry) != set(keys):
            raise UsageError(f"{path}: entry {number}: expected the keys {', '.join(keys)}")
        found.append(Accepted(*(str(entry[key]) for key in keys)))
    return found


def _write(
    found: Decision, directory: RunDirectory, format_name: str, output: Path | None, *, everything: bool
) -> None:
    text = _rendered(found, directory, format_name, everything=everything)
    write_report(text, output)


def _rendered(found: Decision, directory: RunDirectory, format_name: str, *, everything: bool) -> str:
    import json  # noqa: PLC0415

    from harness.report import _decision_formats as formats  # noqa: PLC0415

    if format_name == "junit":
        record = directory.run()
        properties = {"run_id": record.run_id, "host_class": str(record.host.get("class", "")), "base": found.base}
        return formats.as_junit(found, scenario=record.scenario, properties=properties)
    if format_name == "markdown":
        return formats.as_markdown(found)
    if format_name == "json":
        return json.dumps(formats.as_document(found), indent=2, ensure_ascii=False) + "\n"
    return formats.as_text(found, everything=everything)

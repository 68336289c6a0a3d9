"""`harness gate` and `harness compare`: runs against runs; nothing is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli._output import note
from harness.cli.history import current_commit, entries_of
from harness.cli.report import gated_metrics, write_report
from harness.errors import StoreError, UsageError
from harness.results.store import RunDirectory, find_run

if TYPE_CHECKING:
    from harness.analysis.decision import Accepted, Decision
    from harness.analysis.gate import Policy

EXIT = {"passed": 0, "regressed": 1, "not-comparable": 3, "inconclusive": 0}
EXIT_UNDECIDED = 5
FORMATS = ("terminal", "markdown", "junit", "json")

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


@click.command(short_help="Fail where a run got worse than a base run or its history.")
@click.argument("run", metavar="RUN")
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
    *, run: str, baseline: str | None, metrics: tuple[str, ...], margin: float | None, accepted: Path | None,
    strict: bool, history: Path, format_name: str, output: Path | None, results: Path,
) -> None:  # fmt: skip
    """Hold RUN against a base and end with 1 where a guarded metric has regressed.

    A metric has regressed where its whole 95 % interval lies beyond the margin and its p-value, corrected for all that
    is guarded, is at most 5 %. Against a history the question is whether its last 3 to 6 runs lie on a worse level.

    \b
    harness gate latest --baseline main.run         two runs
    harness gate latest --history history           the run is the newest of its history (harness history add)
    harness gate latest --format junit --output junit.xml
    \b
    Exit codes: 0 passed or undecided, 1 regressed, 3 nothing could be compared, 5 undecided with --strict
    """
    directory = RunDirectory.open(find_run(results, run))
    policy = _policy(directory, metrics, margin)
    if not policy.metrics:
        hint = "add to the scenario: gate: {margin: 5%, metrics: [startup.ready]}, or say --metric startup.ready"
        raise UsageError(f"gate: {directory.path.name}: no metric is guarded", hint=hint)
    if baseline is not None:
        base = RunDirectory.open(find_run(results, baseline))
        found = _compare_runs(base, directory, policy, anyway=False)
    else:
        found = _check_history(directory, policy, history)
    if accepted is not None:
        found = _accept(found, accepted, directory)
    _write(found, directory, format_name, output, everything=False)
    _end(found, strict=strict)


def _end(found: Decision, *, strict: bool) -> None:
    from harness.report._decision_formats import github_annotations  # noqa: PLC0415

    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in github_annotations(found):
            click.echo(line, err=True)
    code = EXIT[found.outcome]
    if found.outcome == "inconclusive":
        code = EXIT_UNDECIDED if strict else 0
        note("undecided: more blocks would tell (trials.blocks.max); --strict makes this exit code 5")
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
    from harness.analysis.decision import Decision, check_history, judge_all  # noqa: PLC0415

    name = directory.path.name
    entries = entries_of(directory, root)
    place = next((n for n, entry in enumerate(entries) if entry.run_id == directory.run().run_id), None)
    if place is None:
        reason = f"{name} is not in the history {root}: harness history add {name}"
        return Decision("history", "history", name, policy, (), (reason,))
    until = entries[: place + 1]
    return check_history(until, policy, judged=judge_all(until, policy))


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

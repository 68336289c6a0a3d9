"""`harness history`: the summaries of runs over time, as a table and as a chart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli._output import print_json, print_table
from harness.cli.report import load_report
from harness.errors import StoreError, UsageError
from harness.results.store import RunDirectory, find_run

if TYPE_CHECKING:
    from harness.model.history import Entry, Judged

_RESULTS = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs are."
)
_HISTORY = click.option(
    "--history",
    type=click.Path(path_type=Path),
    default=Path("history"),
    show_default=True,
    help="Where histories are.",
)


def entries_of(directory: RunDirectory, root: Path) -> tuple[Entry, ...]:
    """Return the history of a run's scenario on the class of its host. Raises: StoreError."""
    from harness.results.history import history_name, history_path, read  # noqa: PLC0415

    record = directory.run()
    return read(history_path(root, history_name(record), str(record.host.get("class", ""))))


@click.group(short_help="Keep the summaries of runs, and look at how they moved.")
def history() -> None:
    """Keep one line a run of what it found, per scenario and class of host, and show how it moved.

    \b
    harness history add latest                    after each run of CI, on the branch that keeps the history
    harness history show boot
    harness history chart boot --output boot.svg
    """


@history.command()
@click.argument("run", metavar="RUN")
@click.option("--commit", help="What was measured; default: GITHUB_SHA, CI_COMMIT_SHA or the checkout's HEAD.")
@_HISTORY
@_RESULTS
def add(*, run: str, commit: str | None, history: Path, results: Path) -> None:
    """Append RUN to its history, unless it is there."""
    from harness.analysis.history import entry_of  # noqa: PLC0415
    from harness.results.history import append, history_name, history_path  # noqa: PLC0415

    directory = RunDirectory.open(find_run(results, run))
    record, trials = directory.run(), directory.trials()
    if record.status != "complete":
        raise UsageError(f"history: {record.run_id}: its status is {record.status}", hint="only complete runs count")
    if record.base:
        message = f"history: {record.run_id}: was measured beside a base revision: it is no point of a history"
        raise UsageError(message, hint="harness run without --base makes one")
    noisy = sum(bool(trial.noise.flags) for trial in trials)
    entry = entry_of(load_report(directory), commit=current_commit() if commit is None else commit, noisy=noisy)
    path = history_path(history, history_name(record), str(record.host.get("class", "")))
    click.echo(f"{'added to' if append(path, entry) else 'already in'} {path}")


def current_commit() -> str:
    """Return the commit that CI says it builds, or that of the checkout here; empty where there is none."""
    for name in ("GITHUB_SHA", "CI_COMMIT_SHA"):
        if os.environ.get(name):
            return os.environ[name]
    from harness.errors import CapabilityError  # noqa: PLC0415
    from harness.host.process import run as run_program  # noqa: PLC0415

    try:
        return run_program(["git", "rev-parse", "HEAD"], timeout_ns=5 * 10**9).stdout.decode().strip()
    except CapabilityError:  # no git, or no checkout
        return ""


def _file(history: Path, scenario: str, host_class: str | None) -> Path:
    """Return the one history of a scenario. Raises: StoreError where there is none, or several and none is named."""
    found = sorted((history / scenario).glob(f"{host_class or '*'}.jsonl"))
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(sorted(path.name for path in history.glob("*") if path.is_dir())) or "none"
        raise StoreError(f"history: {scenario}: none in {history}", hint=f"there are: {known}; harness history add RUN")
    classes = ", ".join(path.stem for path in found)
    raise StoreError(f"history: {scenario}: of several classes of hosts: {classes}", hint="choose one: --host-class")


_HOST_CLASS = click.option("--host-class", help="Which class of hosts, where a scenario has more than one.")
_METRIC = click.option("--metric", "metrics", multiple=True, default=("startup.ready",), show_default=True,
                       help="Metric or glob. Repeat it.")  # fmt: skip
_MARGIN = click.option("--margin", type=float, default=0.05, show_default=True, help="Smaller steps do not matter.")


@history.command()
@click.argument("scenario")
@_METRIC
@_MARGIN
@_HOST_CLASS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@_HISTORY
def show(
    *, scenario: str, metrics: tuple[str, ...], margin: float, host_class: str | None, as_json: bool, history: Path
) -> None:
    """Show where each metric of SCENARIO stands after all runs, and whether it stepped."""
    from dataclasses import asdict  # noqa: PLC0415

    judged, entries = _judged(history, scenario, host_class, metrics, margin)
    if as_json:
        steps = [
            {"metric": one.series.metric, "runtime": one.series.runtime, "runs": len(one.series.points),
             "values": [one.series.compared(place) for place in range(len(one.series.points))],
             "relative": one.series.relative, "verdict": one.verdict, "reason": one.reason,
             "step": None if one.step is None else asdict(one.step)}
            for one in judged
        ]  # fmt: skip
        print_json({"schema": "harness.history-report/1", "runs": [entry.run_id for entry in entries], "series": steps})
        return
    from rich.table import Table  # noqa: PLC0415

    from harness.report._trend import newest, sparkline  # noqa: PLC0415

    table = Table("metric", "runtime", "runs", "newest", "last 20", "verdict", "why", box=None, pad_edge=False)
    for one in judged:
        table.add_row(one.series.metric, one.series.runtime, str(len(one.series.points)), _newest(one),
                      sparkline(newest(one)), one.verdict, one.reason)  # fmt: skip
    print_table(table)


def _judged(
    history: Path, scenario: str, host_class: str | None, metrics: tuple[str, ...], margin: float
) -> tuple[tuple[Judged, ...], tuple[Entry, ...]]:
    from harness.analysis.decision import judge_all  # noqa: PLC0415
    from harness.analysis.gate import Policy  # noqa: PLC0415
    from harness.results.history import read  # noqa: PLC0415

    path = _file(history, scenario, host_class)
    entries = read(path)
    judged = judge_all(entries, Policy(metrics, margin))
    if not judged:
        raise StoreError(f"history: {path}: none of its newest run's metrics is {', '.join(metrics)}")
    return judged, entries


def _newest(one: Judged) -> str:
    from harness.report._tables import format_value  # noqa: PLC0415

    value = float(one.series.compared(len(one.series.points) - 1) or 0)
    return f"{value:.3g}x" if one.series.relative else format_value(value, one.series.unit)


@history.command()
@click.argument("scenario")
@_METRIC
@_MARGIN
@_HOST_CLASS
@click.option("--output", type=click.Path(path_type=Path), required=True, help="FILE.svg or FILE.png.")
@_HISTORY
def chart(
    *, scenario: str, metrics: tuple[str, ...], margin: float, host_class: str | None, output: Path, history: Path
) -> None:
    """Draw the regression chart of SCENARIO: one panel a metric and runtime, the same bytes for the same history."""
    if output.suffix not in {".svg", ".png"}:
        raise UsageError(f"--output: {output}: expected a name that ends with .svg or .png")
    from harness.charts import style  # noqa: PLC0415
    from harness.charts.history import describe, history_chart  # noqa: PLC0415

    judged, _ = _judged(history, scenario, host_class, metrics, margin)
    figure = history_chart(judged, margin=margin, caption=_file(history, scenario, host_class).stem)
    words = ". ".join(describe(one) for one in judged)
    made = (
        style.to_png(figure)
        if output.suffix == ".png"
        else style.to_svg(figure, title=f"history of {scenario}", description=words).encode()
    )
    try:
        output.write_bytes(made)
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}") from error
    click.echo(words)

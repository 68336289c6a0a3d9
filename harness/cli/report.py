"""`harness report`: look at a finished run again; nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click

from harness import plugins
from harness.analysis.findings import KILLED
from harness.analysis.summary import analyse
from harness.cli._weights import weights_option
from harness.errors import StoreError, UsageError
from harness.interfaces import Renderer
from harness.model.records import RunRecord
from harness.model.report import Finding, Report
from harness.report.terminal import TerminalRenderer
from harness.results.store import RunDirectory, find_run
from harness.trials import ownership

_ALIASES = {"md": "markdown"}
_TORN = Finding(
    "torn",
    "the last line of trials.jsonl was cut off while it was written, and is left out",
    "harness run --resume repeats that trial",
)
_RESULTS = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs are."
)


def was_killed(record: RunRecord) -> bool:
    """Return whether a run says that it is running while no process of this host works on it."""
    return record.status == "running" and ownership.living_owner(record.run_id) is None


def load_report(directory: RunDirectory) -> Report:
    """Return the analysis of a run. Raises: StoreError where it cannot be read."""
    record, trials = directory.run(), directory.trials()
    notes = [_TORN] if directory.torn else []
    if was_killed(record):
        notes.append(_killed(record.run_id))
    return analyse(record, trials, notes)


def _killed(run_id: str) -> Finding:
    message = "the run was killed: it says that it is running, and no process of this host works on it"
    return Finding(KILLED, message, f"harness run --resume {run_id}")


def gated_metrics(directory: RunDirectory) -> tuple[str, ...]:
    """Return the metrics that the scenario's gate names. Raises: StoreError where it cannot be read."""
    return tuple(directory.gate().get("metrics", ()))


@click.command(short_help="Show a finished run again, in any format.")
@click.argument("run", metavar="RUN")
@click.option(
    "--format", "format_name", default="terminal", show_default=True, help="terminal, html, markdown, csv, json, ..."
)
@click.option("--all", "everything", is_flag=True, help="In the terminal format too, every metric with its interval.")
@click.option(
    "--notebook", default="compare", show_default=True, help="Which, with --format notebook: harness list notebooks."
)
@click.option("--also", multiple=True, metavar="RUN", help="A further run for a notebook. Repeat it.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="A setting of a notebook: language=de, history=DIR. Repeat it.")  # fmt: skip
@click.option(
    "--definition",
    "definitions",
    multiple=True,
    metavar="NAME",
    help="Figures as firecracker, kata, cloud-hypervisor, docker-cli, bucketbench define them; or all.",
)
@click.option("--matrix", "matrix", is_flag=True, help="All cells of the matrix that RUN is a cell of, in one table.")
@weights_option
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@_RESULTS
def report(  # noqa: PLR0913  (click passes every option)
    *, run: str, format_name: str, everything: bool, notebook: str, also: tuple[str, ...], settings: tuple[str, ...],
    definitions: tuple[str, ...], matrix: bool, weights: Mapping[str, float], output: Path | None, results: Path,
) -> None:  # fmt: skip
    """Show a run again: RUN is its directory, its id, the beginning or end of its id, or 'latest'.

    Formats: terminal, html, markdown (md), csv, json, latex, junit, gab-smaller, gab-bigger (github-action-benchmark),
    bmf (Bencher), openmetrics, notebook, and those of installed plugins. Nothing is measured: everything comes
    from the run's trials.jsonl. The terminal format has intervals for the main metrics and the gate's, and medians of
    the others, unless --all asks for more; the other formats always hold everything.

    \b
    harness report latest
    harness report latest --all
    harness report latest --format md --output summary.md
    harness report latest --format html --output report.html
    harness report latest --format notebook --notebook startup --output startup.ipynb     or .html
    harness report latest --matrix     or with --format png --output matrix.png: every cell of a scenario with `matrix:`
    harness report latest --weight system-calls=5     another weight in the score of exposure
    harness report latest --definition kata     or all: to reconcile published figures with these
    harness report QUICKSTART_RUN --also LAYERS_RUN --format notebook --notebook vergleich --set language=de
    """
    directory = RunDirectory.open(find_run(results, run))
    if matrix:
        from harness.cli import _series  # noqa: PLC0415

        if definitions or also or settings or weights:
            raise UsageError("--matrix: not with --definition, --also, --set or --weight")
        _series.show(directory.path, _ALIASES.get(format_name, format_name), output, everything=everything)
        return
    if format_name == "notebook":
        runs = [directory.path, *(RunDirectory.open(find_run(results, one)).path for one in also)]
        write_report(_notebook(notebook, runs, settings, output), output)
        return
    if also or settings:
        raise UsageError("--also, --set: these are for --format notebook")
    if definitions:
        from harness.report import _definitions as others  # noqa: PLC0415

        chosen = others.names_of(definitions)
        text = others.render(load_report(directory), chosen, _ALIASES.get(format_name, format_name))
        write_report(text, output)
        return
    renderer: Renderer
    if format_name == TerminalRenderer.name:
        renderer = TerminalRenderer(everything=everything, gated=gated_metrics(directory))
    else:
        renderer = plugins.load("report", _ALIASES.get(format_name, format_name))
    write_report(renderer.render(replace(load_report(directory), weights=weights)), output)


def _notebook(name: str, runs: Sequence[Path], settings: Sequence[str], output: Path | None) -> str:
    from harness.report import _notebook as notebooks  # noqa: PLC0415

    pairs = dict(one.partition("=")[::2] for one in settings)
    executed = notebooks.execute(name, runs, pairs)
    return notebooks.as_html(executed) if output and output.suffix == ".html" else notebooks.as_ipynb(executed)


def write_report(text: str, output: Path | None) -> None:
    """Write a report to a file, or to stdout without one. Raises: StoreError where the file cannot be written."""
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(click.unstyle(text), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}") from error

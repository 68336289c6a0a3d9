"""`harness report` and `harness claims`: look at a finished run again; nothing is measured."""

from __future__ import annotations

from pathlib import Path

import click

from harness import plugins
from harness.analysis.summary import analyse
from harness.cli._output import print_json
from harness.errors import StoreError
from harness.model.report import Finding, Report
from harness.results.store import RunDirectory, find_run

_ALIASES = {"md": "markdown"}
_TORN = Finding(
    "torn",
    "the last line of trials.jsonl was cut off while it was written, and is left out",
    "harness run --resume repeats that trial",
)
_RESULTS = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs are."
)


def load_report(results: Path, text: str) -> Report:
    """Return the analysis of a run, found by its path, id, a part of the id, or `latest`. Raises: StoreError."""
    directory = RunDirectory.open(find_run(results, text))
    return analyse(directory.run(), directory.trials(), [_TORN] if directory.torn else [])


@click.command(short_help="Show a finished run again, in any format.")
@click.argument("run", metavar="RUN")
@click.option("--format", "format_name", default="terminal", show_default=True, help="terminal, markdown, csv, json")
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@_RESULTS
def report(*, run: str, format_name: str, output: Path | None, results: Path) -> None:
    """Show a run again: RUN is its directory, its id, the beginning or end of its id, or 'latest'.

    Formats: terminal, markdown (md), csv, json, and those of installed plugins. Nothing is measured: everything comes
    from the run's trials.jsonl.

    \b
    harness report latest
    harness report latest --format md --output summary.md
    """
    renderer = plugins.load("report", _ALIASES.get(format_name, format_name))
    text = renderer.render(load_report(results, run))
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(click.unstyle(text), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}") from error


@click.command(short_help="Hold a run against the common claims on VMs and containers.")
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@_RESULTS
def claims(*, run: str, as_json: bool, results: Path) -> None:
    """Hold a run against what is commonly said: a VM has its own system, starts in minutes, takes more, and so on.

    Each of the five claims gets what RUN measured for both sides and a verdict: holds, fails, or not shown. RUN is a
    directory, an id, the beginning or end of an id, or 'latest'.
    """
    found = load_report(results, run)
    if as_json:
        from harness.report.json import claims_document  # noqa: PLC0415

        print_json(claims_document(found))
        return
    from harness.report.terminal import TerminalRenderer  # noqa: PLC0415

    click.echo(TerminalRenderer().render_claims(found), nl=False)

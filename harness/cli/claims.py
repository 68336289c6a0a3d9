"""`harness claims`: runs held against what is commonly said of VMs and containers; nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from harness.analysis.claims import COMPARISON, whole_table
from harness.cli._output import print_json
from harness.cli.report import load_report, write_report
from harness.errors import StoreError, UsageError
from harness.model.report import Claim, Report
from harness.results.store import RunDirectory, find_run

_SUFFIXES = {".md": "markdown", ".html": "html", ".png": "png", ".svg": "svg", ".json": "json", ".txt": "text"}
_FORMATS = ("text", "markdown", "html", "png", "svg", "json")
_PARTS = ("all", "comparison", "layers")


@click.command(short_help="Hold runs against the common claims on VMs and containers.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--format", "format_name", type=click.Choice(_FORMATS),
              help="Default: by the end of --output, else text. png and svg are a picture for a slide.")  # fmt: skip
@click.option("--part", type=click.Choice(_PARTS), default="all", show_default=True,
              help="The five rows that compare VMs and containers, those on layers and storage, or all.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where runs are."
)
def claims(
    *, runs: tuple[str, ...], format_name: str | None, part: str, output: Path | None, as_json: bool, results: Path
) -> None:
    """Hold runs against what is commonly said: a VM has its own system, starts in minutes; layers save storage, ...

    Each claim gets what was measured for both sides, the effect with its interval, and a verdict: holds here, does not
    hold here, or undecided, with the scenario that would decide it. Of several runs that show a row the one with most
    blocks speaks. RUN is a directory, an id, the beginning or end of an id, or 'latest'.

    \b
    harness claims latest
    harness claims QUICKSTART_RUN LAYERS_RUN BUILD_CACHE_RUN --output claims.html
    harness claims QUICKSTART_RUN --part comparison --output slide.png
    """
    found = [load_report(RunDirectory.open(find_run(results, run))) for run in runs]
    table = whole_table([(report.run.run_id, report.claims) for report in found])
    rows = [row for row in table if part == "all" or (row.feature in COMPARISON) == (part == "comparison")]
    chosen = "json" if as_json else format_name or _SUFFIXES.get(output.suffix if output else "", "text")
    if chosen == "png":
        _write_png(found, rows, output)
        return
    if chosen == "json" and output is None:
        from harness.report.json import claims_document  # noqa: PLC0415

        print_json(claims_document(found, rows))
        return
    write_report(_RENDERERS[chosen](found, rows), output)


def _text(reports: Sequence[Report], rows: Sequence[Claim]) -> str:
    from harness.report.terminal import TerminalRenderer  # noqa: PLC0415

    return TerminalRenderer().render_claims(reports, rows)


def _markdown(reports: Sequence[Report], rows: Sequence[Claim]) -> str:
    from harness.report._claims import markdown  # noqa: PLC0415

    return markdown(reports, rows)


def _html(reports: Sequence[Report], rows: Sequence[Claim]) -> str:
    from harness.report._claims import html  # noqa: PLC0415

    return html(reports, rows)


def _json(reports: Sequence[Report], rows: Sequence[Claim]) -> str:
    import json  # noqa: PLC0415

    from harness.report.json import claims_document  # noqa: PLC0415

    return json.dumps(claims_document(reports, rows), indent=2, ensure_ascii=False) + "\n"


def _svg(reports: Sequence[Report], rows: Sequence[Claim]) -> str:
    from harness.charts import style  # noqa: PLC0415 - matplotlib takes a second
    from harness.charts.claims import describe  # noqa: PLC0415
    from harness.report._claims import TITLE, picture  # noqa: PLC0415

    return style.to_svg(picture(reports, rows), title=TITLE, description=describe(rows))


_RENDERERS: dict[str, Callable[[Sequence[Report], Sequence[Claim]], str]] = {
    "text": _text, "markdown": _markdown, "html": _html, "svg": _svg, "json": _json,
}  # fmt: skip


def _write_png(reports: Sequence[Report], rows: Sequence[Claim], output: Path | None) -> None:
    if output is None:
        raise UsageError("--format: png: a picture goes to a file", hint="--output claims.png")
    from harness.charts import style  # noqa: PLC0415
    from harness.report._claims import picture  # noqa: PLC0415

    try:
        output.write_bytes(style.to_png(picture(reports, rows)))
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}") from error

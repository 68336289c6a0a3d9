"""The runs of one matrix, shown together: `harness report RUN --matrix`, and the end of `harness run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cli._output import note
from harness.cli.report import gated_metrics, load_report, write_report
from harness.errors import StoreError, UsageError
from harness.model.report import Series
from harness.report import _series as series_text
from harness.report.terminal import TerminalRenderer
from harness.results.store import RunDirectory, series_of

FORMATS = ("terminal", "markdown", "csv", "json", "png", "svg")


def load_series(runs: Sequence[RunDirectory]) -> Series:
    """Return the reports of the runs of one matrix, in the order of its cells; a run that has gone is told.

    Raises: StoreError where none of them can be read.
    """
    reports = []
    for directory in runs:
        try:
            reports.append(load_report(directory))
        except StoreError as error:
            if directory is runs[-1] and not reports:
                raise
            note(f"left out: {error.message}")
    return Series(tuple(reports))


def show(path: Path, format_name: str, output: Path | None, *, everything: bool) -> None:
    """Write the table or the picture of the matrix that the run at `path` is a cell of.

    Raises: UsageError for another format, StoreError where it is no cell or where `output` cannot be written.
    """
    if format_name not in FORMATS:
        raise UsageError(f"--format: {format_name}: not one for --matrix", hint=f"known: {', '.join(FORMATS)}")
    runs = [RunDirectory.open(found) for found in series_of(path).values()]
    series, gated = load_series(runs), gated_metrics(runs[0])
    if format_name in {"png", "svg"}:
        _draw(series, gated, format_name, output)
        return
    texts = {"markdown": series_text.as_markdown, "csv": series_text.as_csv, "json": series_text.as_json}
    write = texts.get(format_name, TerminalRenderer(everything=everything, gated=gated).render_series)
    write_report(write(series), output)


def _draw(series: Series, gated: Sequence[str], format_name: str, output: Path | None) -> None:
    from harness.charts import matrix as charts  # noqa: PLC0415 - matplotlib takes a second
    from harness.charts import style  # noqa: PLC0415

    metrics = list(dict.fromkeys(group.metric for group in series_text.groups(series, gated) if not group.exact))
    figure = charts.matrix_chart(series, metrics)
    if format_name == "svg":
        title = series_text.headline(series)
        write_report(style.to_svg(figure, title=title, description=charts.describe(series, metrics)), output)
        return
    if output is None:
        raise UsageError("--format: png: a picture goes to a file", hint="--output matrix.png")
    try:
        output.write_bytes(style.to_png(figure))
    except OSError as error:
        raise StoreError(f"{output}: cannot be written: {error.strerror}") from error

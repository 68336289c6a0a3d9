"""`harness bundle`: a finished run in one archive that somebody else can read, check and repeat."""

from __future__ import annotations

import gzip
import io
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

import click

from harness import plugins
from harness.cli.report import load_report
from harness.errors import StoreError
from harness.model.records import RunRecord
from harness.report.html import HtmlRenderer
from harness.results.store import RunDirectory, find_run

_LINKED = ("run.json", "scenario.yaml", "scenario.resolved.json", "trials.jsonl")
_FORMATS = ("html", "markdown", "csv", "json")
_README = """{run_id}

report.html                          the report: open it in a browser, it needs no network
run.json                             the plan with its seed, the host, versions and digests of every tool and image
scenario.yaml                        the scenario as it was typed; scenario.resolved.json with all defaults
trials.jsonl                         every trial, one line each: the truth that reports are made of
logs/                                what workloads, guests and consoles wrote

Look again:  tar xf {name} && harness report {run_id}
Repeat it:   harness run {run_id}/scenario.yaml --set trials.seed={seed}{cell}
             with harness {harness} and an image whose root digest is {digest}
"""


@click.command(short_help="Put a finished run into one archive, with its reports.")
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="FILE.tar.gz; default: RUN_ID.tar.gz here.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
              help="Where runs are.")  # fmt: skip
def bundle(*, run: str, output: Path | None, results: Path) -> None:
    """Put RUN into one archive: raw trials, scenario, digests, host facts, logs, and the report in four formats.

    The archive is the same for the same run. It names no host and holds nothing from outside the run's directory, but
    logs hold what the workload wrote: look before you publish it.
    """
    directory = RunDirectory.open(find_run(results, run))
    target = output or Path(f"{directory.path.resolve().name}.tar.gz")
    try:
        with (
            target.open("wb") as file,
            gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, data in _files(directory, target.name):
                info = tarfile.TarInfo(f"{directory.path.resolve().name}/{name}")
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
    except OSError as error:
        target.unlink(missing_ok=True)
        raise StoreError(f"{target}: cannot be written: {error.strerror}") from error
    click.echo(f"{target} {target.stat().st_size} bytes")


def _settings(record: RunRecord) -> str:
    """Return what chooses the run's cell of a matrix on the command line."""
    cell = record.matrix["cell"] if record.matrix else {}
    return "".join(f" --set {shlex.quote(f'{key}={text}')}" for key, text in cell.items())


def _files(directory: RunDirectory, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield each file of the archive: those of the run (links are left out), and fresh reports."""
    record, report = directory.run(), load_report(directory)
    text = _README.format(
        run_id=record.run_id, name=name, seed=record.seed, harness=record.tools.get("harness", "of that time"),
        digest=record.image.get("root_digest", "(a study has none)"), cell=_settings(record),
    )  # fmt: skip
    yield "README", text.encode()
    beside = [inside for inside in ("README", *_LINKED) if inside == "README" or (directory.path / inside).is_file()]
    for format_name in _FORMATS:
        renderer = HtmlRenderer(beside) if format_name == HtmlRenderer.name else plugins.load("report", format_name)
        yield f"report{renderer.suffix}", renderer.render(report).encode()
    made = {"README", *(f"report{plugins.load('report', one).suffix}" for one in _FORMATS)}
    for path in sorted(directory.path.rglob("*")):
        inside = str(path.relative_to(directory.path))
        if path.is_file() and not path.is_symlink() and inside not in made:
            yield inside, path.read_bytes()

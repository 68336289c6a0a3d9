"""`harness image build`: an image from a Containerfile."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from harness.cli._image import JSON, image_facts, open_store, print_json
from harness.errors import BuildError, UsageError
from harness.images import containerfile as parser
from harness.images import oci
from harness.images.build import BuildOptions, BuildResult, build_image_of
from harness.images.build_plan import Wishes
from harness.images.build_progress import Lines, Progress, Quiet, StepResult
from harness.images.containerfile import Containerfile

_STDIN = Path("-")


@click.command()
@click.argument("context", type=click.Path(exists=True, path_type=Path))
@click.option("-t", "--tag", "--name", "names", multiple=True, metavar="NAME[:TAG]",
              help="The result's name; the directory's where it is left out. Repeat it for more.")  # fmt: skip
@click.option("-f", "--file", "path", type=click.Path(dir_okay=False, path_type=Path),
              help="The Containerfile, - for stdin; Containerfile or Dockerfile in CONTEXT if left out.")  # fmt: skip
@click.option("--build-arg", "pairs", multiple=True, metavar="NAME[=VALUE]",
              help="A value for ARG NAME; without =VALUE the environment's. Repeat it.")  # fmt: skip
@click.option("--target", default="", metavar="STAGE", help="The stage to build, by name or number; the last one.")
@click.option("--network", type=click.Choice(["host", "none"]), default="host", show_default=True,
              help="The network that RUN has.")  # fmt: skip
@click.option("--no-cache", is_flag=True, help="Make every layer anew.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but the result.")
@click.option("--progress", "how", type=click.Choice(["auto", "plain"]), default="auto", show_default=True,
              help="plain: every line of output, even on a terminal.")  # fmt: skip
@JSON
def build(context: Path, names: tuple[str, ...], path: Path | None, **given: Any) -> None:
    """Build an image from the Containerfile in the directory CONTEXT.

    Everything of a Containerfile works but URLs in ADD and secrets: several stages, RUN (in the built-in runtime, as
    root), COPY and ADD, documents in the file, .dockerignore. A step whose input did not change is not made again. With
    SOURCE_DATE_EPOCH the same input gives the same digest on any machine.

    \b
    Examples:
      harness image build images/webserver -t webserver
      harness image build . --target test --build-arg VERSION=2 --no-cache
    """
    directory = context if context.is_dir() else context.parent
    chosen = [oci.full_name(name) for name in names or (directory.resolve().name.lower(),)]
    wishes = Wishes(dict(_pairs(given["pairs"])), given["target"], given["network"])
    progress = _progress(given["how"], quiet=given["quiet"])
    options = BuildOptions(chosen, wishes, use_cache=not given["no_cache"], progress=progress)
    try:
        built = build_image_of(_read(path, context), directory, open_store(), options)
    except BuildError as error:
        _show_tail(error, progress)
        raise
    if given["as_json"]:
        print_json(image=image_facts(chosen[0], built.image), build=_document(built))
        return
    for name in chosen:
        click.echo(f"{name} {built.image.manifest.digest}")


def _show_tail(error: BuildError, progress: Progress) -> None:
    """Show the last lines of a command that failed, unless they stand there already."""
    lines = getattr(error, "tail", ())
    if isinstance(progress, Lines) or not lines:
        return
    click.echo(err=True)
    for line in lines:
        click.echo(f"  | {line}", err=True)


def _read(path: Path | None, context: Path) -> Containerfile:
    if path != _STDIN:
        return parser.read(path or parser.find(context))
    try:
        return parser.parse(sys.stdin.buffer.read().decode(), "-")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin: {error}") from error


def _pairs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the build arguments. Raises: UsageError for a name that the environment does not have."""
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"--build-arg: {word}: expected NAME=VALUE; the environment has no {name}")
        pairs.append((name, value if equals else os.environ[name]))
    return pairs


def _document(built: BuildResult) -> dict[str, Any]:
    steps = [
        {
            "stage": step.stage, "keyword": step.keyword, "line": step.line, "text": step.text, "cached": step.cached,
            "duration_ns": step.duration_ns, "layer": step.layer.blob.digest if step.layer else None,
            "layer_bytes": step.layer_bytes,
        }
        for step in built.steps
    ]  # fmt: skip
    return {"duration_ns": built.duration_ns, "steps": steps}


# -- progress --------------------------------------------------------------------------------------------------------


def _progress(how: str, *, quiet: bool) -> Progress:
    if quiet:
        return Quiet()
    if how == "auto" and sys.stderr.isatty() and "CI" not in os.environ:
        return _Live()
    return Lines(lambda line: click.echo(line, err=True))


class _Live:
    """One line a step on a terminal; while it runs, the last line that it wrote stands beside it."""

    def begin(self, label: str) -> None:
        self._show(f" => {label}")
        if "] FROM " in label:
            click.echo(err=True)

    def output(self, label: str, line: str) -> None:
        self._show(f" => {label}  | {line}")

    def end(self, label: str, result: StepResult) -> None:
        how = "CACHED" if result.cached else f"{result.duration_ns / 1e9:.1f}s"
        self._show(f" => {label}  {how}", room=len(how) + 2)
        click.echo(err=True)

    def _show(self, text: str, room: int = 0) -> None:
        """Write over the line; what does not fit is cut, but for `room` columns at its end."""
        columns = shutil.get_terminal_size().columns - 1
        clean = "".join(char if char.isprintable() else " " for char in text)
        shown = clean if len(clean) <= columns else clean[: columns - room - 1] + "…" + (clean[-room:] if room else "")
        click.echo(f"\r\x1b[K{shown}", nl=False, err=True)

"""`harness image build`: an image from a Containerfile."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli._image import JSON, image_facts, open_store, print_json
from harness.errors import UsageError
from harness.images import oci
from harness.images.build import build_image
from harness.images.resolve import find_containerfile


@click.command()
@click.argument("context", type=click.Path(exists=True, path_type=Path))
@click.option("-t", "--name", help="NAME[:TAG] of the result; the directory's name where it is left out.")
@click.option("-f", "--file", "containerfile", type=click.Path(dir_okay=False, path_type=Path),
              help="The Containerfile; CONTEXT/Containerfile or CONTEXT/Dockerfile where it is left out.")  # fmt: skip
@click.option("--build-arg", "pairs", multiple=True, metavar="NAME=VALUE", help="A value for ARG NAME. Repeat it.")
@JSON
def build(
    context: Path, name: str | None, containerfile: Path | None, pairs: tuple[str, ...], *, as_json: bool
) -> None:
    """Build an image from the Containerfile in the directory CONTEXT.

    Supported: FROM (scratch or an image of the store), COPY and ADD of files, ENV, ARG, WORKDIR, USER, LABEL, EXPOSE,
    CMD, ENTRYPOINT, VOLUME, STOPSIGNAL, SHELL, and .dockerignore. The same files give the same digest every time.

    \b
    Example:
      harness image build images/webserver --name webserver
    """
    file = containerfile or find_containerfile(context)
    directory = context if context.is_dir() else context.parent
    arguments = dict(_pair(text) for text in pairs)
    chosen = oci.full_name(name or directory.resolve().name.lower())
    built = build_image(
        file, directory, open_store(), name=chosen, arguments=arguments, log=lambda s: click.echo(s, err=True)
    )
    if as_json:
        print_json(image=image_facts(chosen, built))
    else:
        click.echo(f"{chosen} {built.manifest.digest}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--build-arg: {text}: expected NAME=VALUE")
    return name, value

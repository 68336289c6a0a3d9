"""`harness image import`, `export` and `bootstrap`: images that come from elsewhere, and that go there."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli._image import JSON, image_facts, open_store, print_json
from harness.host.paths import cache_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.interchange import export_image, import_image


@click.command(name="import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="NAME[:TAG] for a source that holds one image; its own name where it is left out.")
@JSON
def import_(source: Path, name: str | None, *, as_json: bool) -> None:
    """Take images from SOURCE into the store.

    SOURCE is an OCI layout directory, an OCI archive, or the tar of `docker save` or `podman save`; it may be
    compressed with gzip or zstd. Every byte is checked against its digest.

    \b
    Example:
      docker save nginx:1.27 | gzip > nginx.tar.gz
      harness image import nginx.tar.gz
    """
    found = import_image(source, open_store(), name=name)
    if as_json:
        print_json(images=[image_facts(text, one) for text, one in found.items()])
        return
    for text, one in found.items():
        click.echo(f"{text} {one.manifest.digest}")


@click.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "fmt", type=click.Choice(["oci-archive", "oci-dir"]),
              help="Archive or directory; an archive where TARGET ends with .tar and this is left out.")  # fmt: skip
def export(name: str, target: Path, fmt: str | None) -> None:
    """Write the image NAME to TARGET, as an OCI layout directory or as one tar.

    The tar is an OCI archive that `docker load` takes as well. TARGET must not exist.
    """
    archive = fmt == "oci-archive" or (fmt is None and target.suffix == ".tar")
    export_image(open_store(), name, target, "oci-archive" if archive else "oci-dir")
    click.echo(str(target))


@click.command()
@click.argument("base", type=click.Choice(["busybox"]))
@click.option("--refresh", is_flag=True, help="Ask the distribution for its newest package, even if one is cached.")
@JSON
def bootstrap(base: str, *, refresh: bool, as_json: bool) -> None:
    """Make a base image from the distribution's own package; nothing is installed on this machine.

    busybox: Debian's busybox-static with all its applets, a shell and little else (2 MB), as `busybox:latest`.
    """
    name = f"{base}:latest"
    made = bootstrap_busybox(open_store(), cache_dir(), name=name, refresh=refresh)
    if as_json:
        print_json(image=image_facts(name, made))
    else:
        click.echo(f"{name} {made.manifest.digest} {made.config.labels['harness.package']}")

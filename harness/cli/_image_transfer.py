"""`harness image import`, `export` and `bootstrap`: images that come from elsewhere, and that go there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, get_args

import click

from harness.cli._image import JSON, image_facts, open_store, print_json, tell
from harness.errors import UsageError
from harness.host.paths import cache_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.interchange import ExportFormat, export_image, import_image
from harness.images.repack import parse_compression
from harness.model.units import format_bytes

_STREAM = Path("-")


@click.command(name="import")
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", help="NAME[:TAG] for a source that holds one image; its own name where it is left out.")
@JSON
def import_(source: Path, name: str | None, *, as_json: bool) -> None:
    """Take images from SOURCE into the store; - reads an archive from standard input.

    SOURCE is an OCI layout directory, an OCI archive, or the tar of `docker save` or `podman save`; it, and its layers,
    may be compressed with gzip or zstd. Every byte is checked against its digest. Of an image for several platforms the
    one for this machine is taken.

    \b
    Examples:
      docker save nginx:1.27 | gzip > nginx.tar.gz
      harness image import nginx.tar.gz
      podman save nginx:1.27 | harness image import -
      skopeo copy docker://nginx:1.27 oci:layout:1.27 && harness image import layout --name nginx:1.27
    """
    found = import_image(_input() if source == _STREAM else source, open_store(), name=name, log=tell)
    if as_json:
        print_json(images=[image_facts(text, one) for text, one in found.items()])
        return
    for text, one in found.items():
        click.echo(f"{text} {one.manifest.digest}")


@click.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--format", "fmt", type=click.Choice(get_args(ExportFormat)),
              help="The form; oci-archive where TARGET is - or ends with .tar, else oci-dir.")  # fmt: skip
@click.option("--compress", metavar="HOW", help="Pack layers anew: none, gzip or zstd, or with a level: zstd:19.")
@JSON
def export(name: str, target: Path, fmt: ExportFormat | None, compress: str | None, *, as_json: bool) -> None:
    """Write the image NAME to TARGET, a new directory or file; - writes an archive to standard output.

    \b
    oci-dir         an OCI layout directory, for skopeo, umoci, podman and this harness
    oci-archive     the same as one tar, which docker load and podman load take as well
    docker-archive  what docker save writes: for tools that know nothing of OCI

    Layers stay as they are stored, and the image's digest with them, unless --compress packs them anew. The same image
    always gives the same bytes.

    \b
    Examples:
      harness image export webserver:latest web.tar --compress zstd
      harness image export webserver:latest - | ssh host docker load
    """
    if fmt is None:
        fmt = "oci-archive" if target == _STREAM or target.suffix == ".tar" else "oci-dir"
    compression = parse_compression(compress) if compress is not None else None
    if target == _STREAM:
        export_image(open_store(), name, _output(), fmt, compression)
        return
    made = export_image(open_store(), name, target, fmt, compression)
    if as_json:
        facts = {"path": str(target), "format": fmt, "layers_bytes": [layer.blob.size_bytes for layer in made.layers]}
        print_json(export={"name": made.name, "digest": made.manifest.digest, "size_bytes": made.size_bytes, **facts})
    else:
        click.echo(f"{target} {made.manifest.digest} {format_bytes(made.size_bytes)}")


def _input() -> IO[bytes]:
    if sys.stdin.isatty():
        raise UsageError("import: -: standard input is a terminal", hint="docker save NAME | harness image import -")
    return sys.stdin.buffer


def _output() -> IO[bytes]:
    if sys.stdout.isatty():
        raise UsageError("export: -: standard output is a terminal", hint="harness image export NAME - | docker load")
    return sys.stdout.buffer


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

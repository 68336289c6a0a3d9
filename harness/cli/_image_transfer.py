"""`harness image import`, `export` and `bootstrap`: images that come from elsewhere, and that go there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO, Any, get_args

import click

from harness.cli._image import JSON, image_facts, open_store, print_json, tell
from harness.errors import UsageError
from harness.host.paths import cache_dir
from harness.images import oci
from harness.images.bootstrap import bootstrap_busybox
from harness.images.distribution import Base, Variant, bootstrap_distribution, parse_base
from harness.images.interchange import ExportFormat, export_image, import_image
from harness.images.repack import parse_compression
from harness.model.units import format_bytes, format_ns

_STREAM = Path("-")


@click.command(name="import", short_help="Take images from a file, a directory or a pipe.")
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


@click.command(short_help="Write an image to a file, a directory or a pipe.")
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


@click.command(short_help="Make a base image from a distribution's packages.")
@click.argument("base", metavar="BASE")
@click.option("--name", help="NAME[:TAG] of the result; BASE where it is left out.")
@click.option("--refresh", is_flag=True, help="busybox: ask for its newest package, even if one is cached.")
@click.option("--include", metavar="PACKAGES", help="Packages beside those of the variant, separated by commas.")
@click.option("--variant", type=click.Choice(get_args(Variant)), default="minbase", show_default=True,
              help="How much of the distribution: see mmdebstrap(1).")  # fmt: skip
@click.option("--mirror", "mirrors", multiple=True, metavar="SOURCE",
              help="URL, or line or file of sources.list(5); the host's own where left out. Repeat it.")  # fmt: skip
@click.option("--keyring", type=click.Path(exists=True, path_type=Path), help="The keys that sign the archive.")
@JSON
def bootstrap(base: str, name: str | None, *, refresh: bool, as_json: bool, **options: Any) -> None:
    """Make a base image from a distribution's own packages; no registry is needed, nothing is installed here.

    \b
    busybox        Debian's busybox-static with all its applets, a shell and little else (2 MB)
    debian:SUITE   Debian by mmdebstrap, with apt: debian:bookworm, debian:12 (160 MB, about 20 seconds)
    ubuntu:SUITE   the same of Ubuntu; needs its keys (package ubuntu-keyring)

    With SOURCE_DATE_EPOCH set, the same packages give the same digest.

    \b
    Examples:
      harness image bootstrap busybox
      harness image bootstrap debian:bookworm --include python3,ca-certificates --name lab/python
    """
    started_s, store = time.monotonic(), open_store()
    if base in {"busybox", "busybox:latest"}:
        chosen = oci.full_name(name or "busybox")
        made = bootstrap_busybox(store, cache_dir(), name=chosen, refresh=refresh)
    else:
        wanted = _base(base, options)
        chosen = oci.full_name(name or wanted.name)
        tell(f"{wanted.name}: {wanted.variant} by mmdebstrap; this takes a while")
        made = bootstrap_distribution(wanted, store, name=chosen)
    facts = image_facts(chosen, made)
    if as_json:
        print_json(image=facts)
    else:
        click.echo(f"{chosen} {made.manifest.digest}")
        tell(f"{format_bytes(facts['size_bytes'])} in {format_ns(int((time.monotonic() - started_s) * 1e9))}")


def _base(text: str, options: dict[str, Any]) -> Base:
    distribution, suite = parse_base(text)
    include = tuple(filter(None, (options["include"] or "").split(",")))
    return Base(distribution, suite, options["variant"], include, options["mirrors"], options["keyring"])

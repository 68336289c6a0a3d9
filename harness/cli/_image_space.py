"""`harness image du, gc, rm`: what images take on disk, and giving it back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from harness.cli._image import JSON, open_store, print_json
from harness.errors import ImageError
from harness.images import oci
from harness.images.collection import Removed, collect
from harness.images.usage import Bytes, ImageUsage, Total, Usage, measure_usage
from harness.model.units import format_bytes


@click.command(short_help="Show what images take on disk, and what they share.")
@JSON
def du(*, as_json: bool) -> None:
    """Show what each image takes on disk, and how much of it other images share.

    STORED counts the layers as they are kept and sent, UNPACKED the files of layers that a storage driver has unpacked
    (- where it has not). SHARED is what another image has too, UNIQUE what goes when the image is removed. The last
    lines compare all images with a world in which each has its own copy of every layer.
    """
    usage = measure_usage(open_store())
    if as_json:
        print_json(usage=_document(usage))
        return
    rows = [_row(image) for image in usage.images]
    rows.append(("total", "", *_total_cells(usage.stored), *_total_cells(usage.unpacked)))
    width = max(len(row[0]) for row in [*rows, ("without sharing",)])
    click.echo(f"{'':{width}}  {'':>6}  {'STORED':>32}  {'UNPACKED':>32}")
    heads = ("TOTAL", "SHARED", "UNIQUE")
    click.echo(_line(("IMAGE", "LAYERS", *heads, *heads), width))
    for row in rows:
        click.echo(_line(row, width))
    click.echo(_line(("without sharing", "", _without(usage.stored), *[""] * 2, _without(usage.unpacked)), width))
    click.echo(_line(("times as much", "", _ratio(usage.stored), *[""] * 2, _ratio(usage.unpacked)), width))
    for label, size in (("build cache alone", usage.cache_bytes), ("merged trees", usage.trees_bytes),
                        ("VM disks", usage.disks_bytes)):  # fmt: skip
        click.echo(f"{label}: {format_bytes(size)}")


def _row(image: ImageUsage) -> tuple[str, ...]:
    return (" ".join(image.names), str(image.layers), *_cells(image.stored), *_cells(image.unpacked))


def _cells(size: Bytes | None) -> tuple[str, str, str]:
    if size is None:
        return ("-", "-", "-")
    return (format_bytes(size.total), format_bytes(size.shared), format_bytes(size.unique))


def _total_cells(total: Total) -> tuple[str, str, str]:
    return (format_bytes(total.with_sharing), "", "")


def _without(total: Total) -> str:
    return format_bytes(total.without_sharing)


def _ratio(total: Total) -> str:
    return f"{total.without_sharing / total.with_sharing:.2f}" if total.with_sharing else "-"


def _line(cells: tuple[str, ...], width: int) -> str:
    name, layers, *sizes = cells
    return f"{name:{width}}  {layers:>6}  {'  '.join(f'{size:>9}' for size in sizes)}".rstrip()


def _document(usage: Usage) -> dict[str, Any]:
    def sizes(size: Bytes | None) -> dict[str, int] | None:
        return None if size is None else {"shared_bytes": size.shared, "unique_bytes": size.unique}

    def total(of: Total) -> dict[str, int]:
        return {"with_sharing_bytes": of.with_sharing, "without_sharing_bytes": of.without_sharing}

    images = [
        {
            "names": i.names,
            "digest": i.digest,
            "layers": i.layers,
            "stored": sizes(i.stored),
            "unpacked": sizes(i.unpacked),
        }
        for i in usage.images
    ]
    rest = {key: value for key, value in asdict(usage).items() if key.endswith("_bytes")}
    return {"images": images, "stored": total(usage.stored), "unpacked": total(usage.unpacked), **rest}


@click.command()
@click.option(
    "--all", "cache", is_flag=True, help="Remove the build cache as well: the next build starts from nothing."
)
@JSON
def gc(*, cache: bool, as_json: bool) -> None:
    """Remove every layer, tree and disk that no image needs, and what killed programs left.

    Waits for programs that add images. What a running one uses stays, and without --all the build cache's layers.
    """
    gone = collect(open_store(), cache=cache)
    total_bytes = sum(one.size_bytes for one in gone)
    if as_json:
        print_json(removed=[asdict(one) for one in gone], size_bytes=total_bytes)
        return
    _tell(gone)
    click.echo(f"removed {len(gone)} entries, {format_bytes(total_bytes)}")


@click.command(short_help="Remove images, and what no other image needs.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@JSON
def rm(names: tuple[str, ...], *, as_json: bool) -> None:
    """Remove images by name, and every layer, tree and disk that no other image needs.

    What a running program uses stays until the next `harness image gc`; the build cache keeps its layers.
    """
    store = open_store()
    failed: list[ImageError] = []
    removed: list[str] = []
    for name in dict.fromkeys(oci.full_name(name) for name in names):
        try:
            store.remove(name)
            removed.append(name)
            click.echo(f"removed {name}", err=True)
        except ImageError as error:
            failed.append(error)
    gone = collect(store)
    _tell(gone)
    if as_json:
        print_json(names=removed, removed=[asdict(one) for one in gone])
    if failed:
        hint = "; ".join(dict.fromkeys(error.hint for error in failed if error.hint))
        raise ImageError("\n".join(error.message for error in failed), hint=hint or None)


def _tell(gone: list[Removed]) -> None:
    for one in gone:
        click.echo(f"removed {one.path}", err=True)

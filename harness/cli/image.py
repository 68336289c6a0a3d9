"""`harness image ...`: the images that workloads run on."""

from __future__ import annotations

import json

import click

from harness.cli import _image_transfer as transfer
from harness.cli._image import JSON, image_facts, open_store, print_json
from harness.cli._image_build import build
from harness.cli._image_registry import login, logout, pull, push
from harness.errors import ImageError
from harness.images import oci
from harness.images.collection import collect
from harness.images.disk import disk_image
from harness.images.roots import open_tree
from harness.model.units import format_bytes


@click.group()
def image() -> None:
    """Build, fetch, look at and pass on images.

    An image is what every runtime of a scenario starts from: containers get its files as their root, VMs get the same
    files as a read-only disk. Images live in a store on this machine, an OCI layout that other tools can read.

    \b
    First steps:
      harness image bootstrap busybox       a small base image, from Debian's package
      harness image pull debian:12-slim     or one from a registry
      harness image build images/webserver  an image of your own
      harness image ls
    """


@image.command(short_help="List the images of the store.")
@JSON
def ls(*, as_json: bool) -> None:
    """List the images of the store by name, with their digests and the size of their layers."""
    store = open_store()
    found = [image_facts(name, store.read_image(manifest)) for name, manifest in store.names().items()]
    if as_json:
        print_json(store=str(store.path), images=found)
        return
    if not found:
        click.echo(f"no images in {store.path}; make one: harness image bootstrap busybox", err=True)
        return
    width = max(len(facts["name"]) for facts in found)
    click.echo(f"{'NAME':{width}}  {'DIGEST':19}  {'LAYERS':>6}  {'SIZE':>9}")
    for facts in found:
        size = format_bytes(facts["size_bytes"])
        click.echo(f"{facts['name']:{width}}  {facts['digest'][:19]}  {facts['layers']:>6}  {size:>9}")


@image.command(short_help="Show one image: how it is run, its layers, its history.")
@click.argument("name")
@JSON
def inspect(name: str, *, as_json: bool) -> None:
    """Show one image: how it is run, its layers, and how each of them came to be."""
    store = open_store()
    found = store.find(name)
    layers = [{"digest": layer.blob.digest, "diff_id": layer.diff_id, "size_bytes": layer.blob.size_bytes}
              for layer in found.layers]  # fmt: skip
    if as_json:
        facts = {**image_facts(oci.full_name(name), found), "layers": layers, "configuration": found.document}
        print_json(image=facts)
        return
    config = found.config
    rows = [
        ("name", oci.full_name(name)),
        ("digest", found.manifest.digest),
        ("runs", json.dumps([*config.entrypoint, *config.cmd])),
        ("workdir", config.workdir),
        ("user", config.user or "0"),
        ("ports", " ".join(config.exposed_ports)),
    ]
    rows += [("env", f"{key}={value}") for key, value in config.env.items()]
    rows += [("label", f"{key}={value}") for key, value in sorted(config.labels.items())]
    rows += [("layer", f"{layer['digest']} {format_bytes(int(str(layer['size_bytes'])))}") for layer in layers]
    rows += [("made by", str(step.get("created_by", ""))) for step in found.document.get("history") or []]
    for key, value in rows:
        click.echo(f"{key:8} {value}")


@image.command(short_help="Remove images, and what no other image needs.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove images by name, and every layer, tree and disk that no other image needs.

    What a running measurement uses stays until the next `harness image rm`.
    """
    store = open_store()
    failed: list[ImageError] = []
    for name in dict.fromkeys(oci.full_name(name) for name in names):
        try:
            store.remove(name)
            click.echo(f"removed {name}", err=True)
        except ImageError as error:
            failed.append(error)
    for gone in collect(store):
        click.echo(f"removed {gone.path}", err=True)
    if failed:
        hint = "; ".join(dict.fromkeys(error.hint for error in failed if error.hint))
        raise ImageError("\n".join(error.message for error in failed), hint=hint or None)


@image.command(short_help="Make the disk on which a VM gets an image.")
@click.argument("name")
@click.option("--fs", type=click.Choice(["erofs", "ext4"]), default="erofs", show_default=True,
              help="ext4 is for guests whose kernel has no erofs.")  # fmt: skip
@JSON
def disk(name: str, fs: str, *, as_json: bool) -> None:
    """Make the disk on which a VM gets the image NAME, and print its path. It is made once and kept.

    The disk is a bare, read-only file system with exactly the files of the image: its root digest is the tree's.
    """
    store = open_store()
    tree = open_tree(store, store.find(name), name)
    made = disk_image(tree, store.path / "disks", "ext4" if fs == "ext4" else "erofs")
    if as_json:
        print_json(
            disk={"path": str(made.path), "fs": made.fs, "size_bytes": made.size_bytes, "root_digest": tree.digest}
        )
    else:
        click.echo(str(made.path))


for _command in (build, transfer.import_, transfer.export, transfer.bootstrap, pull, push, login, logout):
    image.add_command(_command)
